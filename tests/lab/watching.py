# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng watch` as a process against a lab host, with directories of its own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab.guest import LabGuest
from tests.lab.host import LabHost, wait_for
from tests.lab.product import ALIAS, TREE, Said, command, definition, live, rngs, virtrng
from virtrng import watch_status
from virtrng.watch_status import WatchStatus

PATIENCE_S = 60.0
# Guests that are there already too.
EVERYBODY = '[domains]\nmanage = "all"'


class Watching:
    """Runs the watcher within the block; `settings` is what [domains] and its rules say."""

    def __init__(self, host: LabHost, tmp_path: Path, settings: str = "") -> None:
        self.host = host
        self.config = tmp_path / "virtrng.toml"
        self.watch_dir = tmp_path / "run-watch"
        self.state_dir = tmp_path / "state"
        self.configure(settings)
        self._log = tmp_path / "watch.log"  # a pipe would have to be read
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _: object, __: TracebackType | None) -> None:
        if self.process is not None and self.process.poll() is None:
            code = self.stop()
            assert kind or code == 0
        sys.stdout.write(self.log())  # pytest shows this with a test that failed

    def configure(self, settings: str) -> None:
        """Write the configuration; a watcher that runs reads it on `reload`."""
        paths = f'[paths]\nrun_dir = "{self.watch_dir.with_name("run")}"\nstate_dir = "{self.state_dir}"\n'
        self.config.write_text(f"{paths}{settings}\n")

    def start(self, *, listening: bool = True, line: Sequence[str] = (), cwd: Path = TREE) -> None:
        """Start it, by another command line if one is given, and wait until it listens."""
        line = line or command(self.host, "watch", config=self.config)
        with self._log.open("a") as log:
            self.process = subprocess.Popen(line, cwd=cwd, stdout=log, stderr=log, text=True)
        if listening:
            self.wait_until(lambda status: status.waiting is None)

    def stop(self) -> int:
        """End it as systemd does; return its exit status."""
        return self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it as nobody can prepare for."""
        assert self.signal(signal.SIGKILL) == -signal.SIGKILL

    def signal(self, number: int) -> int:
        """Send a signal that ends it; return its exit status."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait until it has ended; return its exit status."""
        assert self.process is not None
        return self.process.wait(PATIENCE_S)

    def look_at_all(self) -> None:
        """Have it read its configuration anew and look at every guest, and wait until it has."""
        assert self.process is not None
        before = self.status()
        os.kill(self.process.pid, signal.SIGHUP)
        self.wait_until(lambda now: now.last_pass_boottime_s != (before and before.last_pass_boottime_s))

    def status(self) -> WatchStatus | None:
        """Return what it last wrote of itself, of this run."""
        found = watch_status.read(self.watch_dir)
        return found if found and self.process and found.pid == self.process.pid else None

    def wait_until(self, true: Callable[[WatchStatus], bool]) -> WatchStatus:
        """Wait until its status says so."""

        def seen() -> WatchStatus | None:
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            status = self.status()
            return status if status and true(status) else None

        found = wait_for(seen, "the watcher's status", timeout_s=PATIENCE_S)
        assert found is not None
        return found

    def log(self) -> str:
        """Return what it has said, of all its runs."""
        return self._log.read_text() if self._log.exists() else ""

    def wait_for_log(self, text: str, times: int = 1) -> None:
        """Wait until it has said so, so many times."""
        what = f"'{text}' in the watcher's log"
        wait_for(lambda: self.log().count(text) >= times, what, timeout_s=PATIENCE_S)

    def once(self, *options: str) -> Said:
        """Run `virtrng watch --once` beside it, with its configuration."""
        return virtrng(self.host, "watch", "--once", *options, config=self.config)


def has_ours(domain: str) -> bool:
    """Whether a domain's XML has our device, once."""
    found = [one.alias for one in rngs(domain)]
    assert found.count(ALIAS) <= 1
    return ALIAS in found


def wait_defined(guest: LabGuest) -> None:
    """Wait until the guest's definition has our device."""
    wait_for(
        lambda: has_ours(definition(guest)), f"{guest.name} to be given its device", timeout_s=PATIENCE_S
    )


def wait_live(guest: LabGuest) -> None:
    """Wait until the guest that runs has our device."""
    wait_for(lambda: has_ours(live(guest)), f"{guest.name} to be plugged its device", timeout_s=PATIENCE_S)


def detach(guest: LabGuest) -> None:
    """Take our device out of the guest's definition: libvirt 9.0 tells nobody of that."""
    guest.host.virsh("detach-device-alias", guest.name, ALIAS, "--config")


def redefine(guest: LabGuest, domain: str) -> None:
    """Have `domain` be the guest's definition."""
    guest.host.virsh("define", "/dev/stdin", stdin=domain)
