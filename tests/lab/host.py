# SPDX-License-Identifier: LGPL-2.1-or-later
"""A lab host: a libvirtd of our own, in mount, UTS and PID namespaces of its own, that cannot outlive us.

From outside it is a directory and a URI. Inside, that directory's parts lie over /run, /etc/libvirt and
libvirt's directories under /var, so the machine's own are neither read nor written. Two hosts on one machine
can migrate guests to each other. Needs root; needs neither systemd, D-Bus, cgroups nor KVM.
"""

import itertools
import json
import os
import pwd
import select
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self, TypeVar

from tests.lab.images import LabError

ROOT_PREFIX = "virtrng-lab-"
HOST_INIT = Path(__file__).with_name("host_init.py")
LIBVIRTD = "/usr/sbin/libvirtd"
# Seen from inside a host, the same on each, so that a guest's definition is valid on every host.
SERIAL_DIR = "/run/virtrng-lab"
CONSOLE_LOG_DIR = "/var/log/libvirt/console"
# Where each part of a host's directory lies inside. All of /run: /run/dbus and /run/systemd would lead
# libvirtd to the machine's own systemd-machined.
PARTS = {
    "run": "/run",
    "etc": "/etc/libvirt",
    "lib": "/var/lib/libvirt",
    "cache": "/var/cache/libvirt",
    "log": "/var/log/libvirt",
}
# The mounts' propagation is host_init's affair: unshare's own fails in a chroot.
UNSHARE = ("unshare", "--mount", "--propagation=unchanged", "--uts", "--pid", "--fork", "--kill-child")
# nsenter's option, and the file in /proc/PID/ns
NAMESPACES = {"mount": "mnt", "uts": "uts", "pid": "pid_for_children"}
INTERPRETER = (sys.executable, "-I", "-S")
NEEDED = {
    LIBVIRTD: "libvirt-daemon",
    "/usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so": "libvirt-daemon-driver-qemu",
    "/usr/bin/virsh": "libvirt-clients",
    "/usr/bin/qemu-system-x86_64": "qemu-system-x86",
}
LIBVIRTD_CONF = """\
host_uuid = "{host_uuid}"
auth_unix_rw = "none"
unix_sock_group = "root"
unix_sock_rw_perms = "0700"
log_outputs = "3:stderr"
"""
QEMU_CONF = """\
stdio_handler = "file"
security_driver = "none"
cgroup_controllers = []
namespaces = []
user = "root"
group = "root"
dynamic_ownership = 0
remember_owner = 0
hugetlbfs_mount = []
migration_port_min = {port_min}
migration_port_max = {port_max}
"""
PORTS_PER_HOST = 50
START_S = 30.0  # 0.3 s here
VIRSH_S = 120.0  # a save of a 192 MiB guest takes 1 s here
RELOAD_IGNORED = "reload ignored"  # libvirt 9.0.0, src/remote/remote_daemon.c:daemonReloadHandler
SUN_PATH_MAX_BYTES = 107  # unix(7)
LONGEST_NAME = 24  # of a guest
_host_numbers = itertools.count()
_T = TypeVar("_T")


def wait_for(event: Callable[[], _T], what: str, *, timeout_s: float, poll_s: float = 0.02) -> _T:
    """Return what 'event' returns as soon as that is true; raise LabError when it is not by the deadline."""
    deadline = time.monotonic() + timeout_s
    while not (happened := event()):
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(poll_s)
    return happened


def why_no_lab() -> str | None:
    """Return what this machine lacks for a lab, as a sentence with its remedy; None if nothing."""
    if os.geteuid() != 0:
        return "the lab needs root: it makes mount and PID namespaces"
    missing = [package for path, package in NEEDED.items() if not any(Path("/").glob(path.lstrip("/")))]
    if missing:
        return f"the lab needs packages that are not installed: apt-get install {' '.join(missing)}"
    return None


def children() -> set[str]:
    """Return the process ids of this process's children, whichever thread started them."""
    threads = Path("/proc/self/task").iterdir()
    return {pid for thread in threads for pid in (thread / "children").read_text().split()}


def traces(pid: int) -> list[str]:
    """Return what this machine has of the lab hosts that process 'pid' made: nothing, once they stopped."""
    mark = f"{ROOT_PREFIX}{pid}-"
    found = [f"directory {path}" for path in Path(tempfile.gettempdir()).glob(f"{mark}*")]
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line}" for line in mounts if mark in line]
    for process in Path("/proc").glob("[0-9]*"):
        # Whoever is inside a host sees its directory in a mount.
        with suppress(OSError):
            if mark in (process / "mountinfo").read_text():
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(f"process {process.name} {command[:80]}")
    return found


class LabHost:
    """A private libvirtd, from start() to stop(); as a context manager, within the block."""

    def __init__(self, hostname: str = "alpha") -> None:
        self.hostname = hostname
        self.root = Path()
        self._supervisor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def uri(self) -> str:
        """What 'virsh -c' and libvirt.open() take, outside the host."""
        return f"qemu+unix:///system?socket={self.outside('/run/libvirt/libvirt-sock')}"

    @property
    def hooks_dir(self) -> Path:
        """The host's /etc/libvirt/hooks, as seen from outside."""
        return self.outside("/etc/libvirt/hooks")

    def outside(self, path: str) -> Path:
        """Return where a private path of the host lies outside it."""
        for part, inside in PARTS.items():
            if Path(path).is_relative_to(inside):
                return self.root / part / Path(path).relative_to(inside)
        raise LabError(f"{path} is not private to a host: it is the same inside and outside")

    def inside(self, *command: str) -> list[str]:
        """Return the command line that runs a command inside the host; what stays of it ends with that."""
        unshare = f"/proc/{self._running().pid}"
        namespaces = [f"--{kind}={unshare}/ns/{file}" for kind, file in NAMESPACES.items()]
        # In a chroot the namespace's root is not ours.
        return ["nsenter", *namespaces, f"--root={unshare}/root", f"--wd={unshare}/root", "--", *command]

    def start(self) -> None:
        """Bring the host up, to the point where its libvirtd answers."""
        reason = why_no_lab()
        if reason:
            raise LabError(reason)
        self.root = Path(tempfile.mkdtemp(prefix=f"{ROOT_PREFIX}{os.getpid()}-")).resolve()
        try:
            self._check_root()
            self._write_files()
            self._start_supervisor()
            self.start_daemon()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the host and everything in it: guests, mounts, its directory. Harmless when repeated."""
        supervisor, self._supervisor = self._supervisor, None
        if supervisor:
            _close(supervisor)
        if self.root != Path():
            # Its PID 1 has done that already, unless it was killed.
            shutil.rmtree(self.root, ignore_errors=True)

    def start_daemon(self) -> None:
        """Start libvirtd, and wait until it answers."""
        self._ask("start")
        self._wait_until_ready()

    def stop_daemon(self) -> None:
        """End libvirtd, as 'systemctl stop libvirtd' does; the guests run on."""
        self._ask("stop")

    def restart_daemon(self) -> None:
        """End libvirtd and start it again, under running guests."""
        self.stop_daemon()
        self.start_daemon()

    def reload_daemon(self) -> None:
        """Send libvirtd a SIGHUP, as 'systemctl reload' does, and wait until it has looked for hooks anew.

        What shows that is a hook of ours on the daemon itself, which is there only meanwhile: libvirtd looks
        for all hooks first, then calls that one (libvirt 9.0.0, src/util/virhook.c:virHookCall).
        """
        seen = self.outside(SERIAL_DIR) / "reloaded"
        directory = self.hooks_dir / "daemon.d"
        directory.mkdir(exist_ok=True)
        hook = directory / "zz-virtrng-lab"
        hook.write_text(f"#!/bin/sh\n[ $2 != reload ] || : >{SERIAL_DIR}/{seen.name}\n")
        hook.chmod(0o755)
        try:
            while not seen.exists():
                self._send_reload(seen)
        finally:
            seen.unlink(missing_ok=True)
            hook.unlink()
            with suppress(OSError):  # not empty: somebody else has hooks there
                directory.rmdir()

    def _send_reload(self, seen: Path) -> None:
        """Send one SIGHUP; libvirtd ignores it, and says so, until the reload before it has ended."""
        ignored = self.log().count(RELOAD_IGNORED)
        self._ask("reload")
        wait_for(
            lambda: seen.exists() or self.log().count(RELOAD_IGNORED) > ignored,
            "libvirtd to reload",
            timeout_s=START_S,
        )

    def log(self) -> str:
        """Return what libvirtd has said (warnings and errors), of all its runs on this host."""
        path = self.root / "libvirtd.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def virsh(self, *arguments: str, stdin: str = "", timeout_s: float = VIRSH_S) -> str:
        """Return what virsh printed; raise LabError with its message when it fails.

        A file that it wants can be /dev/stdin.
        """
        command = ["virsh", "-q", "-c", self.uri, *arguments]
        environment = os.environ | {"LC_ALL": "C"}
        try:
            done = subprocess.run(
                command, env=environment, input=stdin, capture_output=True, text=True, timeout=timeout_s
            )
        except subprocess.TimeoutExpired:
            raise LabError(f"'virsh {' '.join(arguments)}' did not end within {timeout_s:g} s") from None
        if done.returncode:
            raise LabError(f"'virsh {' '.join(arguments)}' failed: {done.stderr.strip()}")
        return done.stdout.strip()

    def _running(self) -> subprocess.Popen[bytes]:
        if self._supervisor is None:
            raise LabError(f"the lab host {self.hostname} is not running")
        return self._supervisor

    def _check_root(self) -> None:
        hidden = [inside for inside in PARTS.values() if self.root.is_relative_to(inside)]
        if hidden:
            raise LabError(f"a lab host hides {hidden[0]} and cannot live in it: set TMPDIR elsewhere")
        sun_path = os.fsencode(self.outside(f"{SERIAL_DIR}/{'x' * LONGEST_NAME}"))
        if len(sun_path) > SUN_PATH_MAX_BYTES:
            raise LabError(f"{self.root} is too long for a unix socket's path: set TMPDIR to a shorter one")

    def _write_files(self) -> None:
        for part in PARTS:
            (self.root / part).mkdir()
        for directory in (self.hooks_dir, self.outside(SERIAL_DIR), self.outside(CONSOLE_LOG_DIR)):
            directory.mkdir(parents=True)
        # Ranges apart: two libvirtds that look for a free port at the same time would find the same.
        number = (os.getpid() + next(_host_numbers)) % 200
        port_min = 49152 + number * PORTS_PER_HOST
        qemu_conf = QEMU_CONF.format(port_min=port_min, port_max=port_min + PORTS_PER_HOST - 1)
        (self.root / "etc/qemu.conf").write_text(qemu_conf)
        (self.root / "etc/libvirtd.conf").write_text(LIBVIRTD_CONF.format(host_uuid=uuid.uuid4()))
        # Only the QEMU driver: those for networks, storage and devices would touch the machine's.
        (self.root / "drivers").mkdir()
        (driver,) = Path("/usr/lib").glob("*/libvirt/connection-driver/libvirt_driver_qemu.so")
        (self.root / "drivers" / driver.name).symlink_to(driver)

    def _start_supervisor(self) -> None:
        spec = {
            "hostname": self.hostname,
            "root": str(self.root),
            "binds": dict(self._binds()),
            "command": [LIBVIRTD],
            "log": str(self.root / "libvirtd.log"),
            "environment": {
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                "LIBVIRT_DRIVER_DIR": str(self.root / "drivers"),
            },
        }
        owner = os.pidfd_open(os.getpid())
        try:
            self._supervisor = subprocess.Popen(
                [*UNSHARE, *INTERPRETER, str(HOST_INIT), json.dumps(spec | {"owner_pidfd": owner})],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(owner,),
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for us alone: we take the host down in our own order
            )
        finally:
            os.close(owner)
        self._read_answer("its namespaces")

    def _binds(self) -> Iterator[tuple[str, str]]:
        """Yield what lies over what inside: target, source."""
        for part, inside in PARTS.items():
            yield inside, str(self.root / part)
        # libvirtd looks its own name up at every turn: it need not ask a name server.
        if Path("/etc/hosts").exists():
            yield self._added_to("hosts", f"127.0.1.1 {self.hostname}")
        # It insists on these; the package that makes them would start a daemon of the machine's.
        with suppress(KeyError):
            pwd.getpwnam("libvirt-qemu")
            return
        yield self._added_to("passwd", "libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin")
        yield self._added_to("group", "libvirt-qemu:x:64055:")

    def _added_to(self, file: str, line: str) -> tuple[str, str]:
        """Return what to bind over a file in /etc: the file, and a copy that has one more line."""
        copy = self.root / file
        copy.write_text(f"{Path('/etc', file).read_text().rstrip()}\n{line}\n")
        return f"/etc/{file}", str(copy)

    def _ask(self, command: str) -> None:
        stdin = self._running().stdin
        assert stdin is not None
        with suppress(BrokenPipeError):  # then there is no answer either, and that is reported
            stdin.write(f"{command}\n".encode())
        self._read_answer(command)

    def _read_answer(self, what: str) -> None:
        stdout = self._running().stdout
        assert stdout is not None
        if not select.select([stdout], [], [], START_S)[0]:
            raise LabError(f"host {self.hostname}: no answer to {what} within {START_S:g} s")
        answer = os.read(stdout.fileno(), 4096).decode().strip()
        if answer != "ok":
            raise LabError(f"host {self.hostname}: {what}: {answer or 'its PID 1 has ended'}\n{self.log()}")

    def _wait_until_ready(self) -> None:
        def ready() -> bool:
            self._ask("status")  # libvirtd may have ended: then not on to the deadline
            with suppress(LabError):  # nobody listens yet, though the socket may be there
                self.virsh("uri", timeout_s=START_S)  # answered once its drivers are up
                return True
            return False

        try:
            wait_for(ready, "libvirtd to answer", timeout_s=START_S)
        except LabError as error:
            raise LabError(f"{error}\n{self.log()}") from error


def _close(supervisor: subprocess.Popen[bytes]) -> None:
    """Have PID 1 end, and wait: once 'unshare' has ended, no process of that namespace is left."""
    assert supervisor.stdin is not None
    assert supervisor.stdout is not None
    supervisor.stdin.close()
    try:
        supervisor.wait(START_S)
    except BaseException:
        supervisor.kill()  # takes PID 1 along: --kill-child
        supervisor.wait()
        raise
    finally:
        supervisor.stdout.close()
