# SPDX-License-Identifier: LGPL-2.1-or-later
"""The libvirt daemon of this host as a process: since when it may know of hooks, and how to tell it anew.

It looks for hooks when it starts and when it reloads, and if there were none it calls none (libvirt 9.0,
src/util/virhook.c:virHookInitialize). It cannot be asked which it found; nothing here connects to it.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from virtrng.errors import FileFailed, NotReloaded, OldLibvirt

# Either serves QEMU's guests: the one for itself, or all drivers in one process.
NAMES = ("virtqemud", "libvirtd")
RUN_DIR = Path("/run")
SYSTEMD = Path("/run/systemd/system")  # sd_booted(3)
SBIN = "/usr/sbin:/usr/local/sbin"

# docs/hooks.rst: "since 6.5.0 you can also place several hook scripts in the directory qemu.d".
NEEDED = (6, 5, 0)

# A reload takes 10 ms; SIGHUP is ignored while one is under way (9.0, remote_daemon.c:daemonReloadHandler).
RELOAD_S = 15.0
AGAIN_S = 1.0
POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class Daemon:
    """One that runs. `loaded_at_s`: when it last looked for hooks for certain, in Unix seconds."""

    name: str
    pid: int
    loaded_at_s: float

    def may_know(self, since_s: Iterable[float]) -> bool:
        """Whether it found a hook then, these having been there since."""
        return any(since <= self.loaded_at_s for since in since_s)


def running() -> list[Daemon]:
    """List those that run, by their files in /run."""
    return [daemon for name in NAMES if (daemon := _by_pid_file(name))]


def check_version(version: tuple[int, int, int] | None) -> None:
    """Raise OldLibvirt for one that knows no qemu.d; None, no libvirt at all, is none."""
    if version is not None and version < NEEDED:
        raise OldLibvirt(".".join(map(str, version)), ".".join(map(str, NEEDED)))


def installed_version() -> tuple[int, int, int] | None:
    """Return the version of the daemon that is installed, None if there is none. It need not run."""
    for name in NAMES:
        program = shutil.which(name, path=f"{SBIN}:{os.environ.get('PATH', os.defpath)}")
        if program and (version := _version_of(program)):
            return version
    return None


def _version_of(program: str) -> tuple[int, int, int] | None:
    """Read what it prints: '/usr/sbin/libvirtd (libvirt) 9.0.0'."""
    try:
        said = subprocess.run([program, "--version"], check=False, capture_output=True, text=True).stdout
    except OSError:
        return None
    found = re.search(r"\(libvirt\) (\d+)\.(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def reload(daemon: Daemon, hooks_dir: Path, limit_s: float = RELOAD_S) -> None:
    """Have it look for hooks anew, and wait until it has. Raises NotReloaded or FileFailed.

    What shows it is a hook on the daemon itself, there only meanwhile: libvirt looks for all
    hooks first, then calls that one.
    """
    with _witness(hooks_dir) as seen:
        deadline = time.monotonic() + limit_s
        again = 0.0
        while not seen.exists():
            now = time.monotonic()
            if now > deadline:
                raise NotReloaded(daemon.name, f"it ran no hook within {limit_s:.0f} s of being told to")
            if now >= again:
                _tell(daemon)
                again = now + AGAIN_S
            time.sleep(POLL_S)


def _tell(daemon: Daemon) -> None:
    try:
        if SYSTEMD.is_dir():
            command = ["systemctl", "reload", f"{daemon.name}.service"]
            subprocess.run(command, check=True, capture_output=True, text=True)
        else:
            os.kill(daemon.pid, signal.SIGHUP)
    except subprocess.CalledProcessError as error:
        raise NotReloaded(daemon.name, error.stderr.strip()) from error
    except OSError as error:
        raise NotReloaded(daemon.name, error.strerror or str(error)) from error


@contextmanager
def _witness(hooks_dir: Path) -> Iterator[Path]:
    """Give a file that is there once the daemon has reloaded."""
    directory = hooks_dir / "daemon.d"
    existed = directory.is_dir()
    file = directory / f"virtrng-reload-{os.getpid()}"
    try:
        with tempfile.TemporaryDirectory(prefix="virtrng-reload-", dir=RUN_DIR) as told:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            for left in directory.glob("virtrng-reload-*"):  # by a run that was killed
                left.unlink(missing_ok=True)
            seen = Path(told) / "reloaded"
            file.write_text(f"#!/bin/sh\n[ \"$2\" != reload ] || : > '{seen}'\n")
            file.chmod(0o755)
            yield seen
    except OSError as error:
        raise FileFailed(str(error.filename or file), "write", error.strerror or str(error)) from error
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)
            if not existed:
                directory.rmdir()


def _by_pid_file(name: str) -> Daemon | None:
    try:
        pid = int((RUN_DIR / f"{name}.pid").read_text())
        stat = Path("/proc", str(pid), "stat").read_text()
    except (OSError, ValueError):
        return None
    command, _, rest = stat.partition("(")[2].rpartition(")")
    fields = rest.split()  # of proc(5) from the third on
    if command != name or fields[0] in "ZX":  # the file of one that has ended, and its pid another's
        return None
    started_s = int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK")
    began_s = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + started_s
    return Daemon(name, pid, max(began_s, _reloaded_at_s(name)))


def _reloaded_at_s(name: str) -> float:
    """Return when systemd last saw the unit change its state, a reload included; 0 where it cannot tell."""
    if not SYSTEMD.is_dir():
        return 0.0
    what = "--property=StateChangeTimestampMonotonic"
    command = ["systemctl", "show", "--value", what, f"{name}.service"]
    try:
        said = subprocess.run(command, check=False, capture_output=True, text=True).stdout
        return time.time() - time.monotonic() + int(said) / 1e6
    except (OSError, ValueError):
        return 0.0
