# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a watcher may meet: a QEMU or a libvirtd that hangs or is killed, itself held or killed anywhere."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Unpack

from tests.lab.guest import DomainOptions, LabGuest, domain_xml
from tests.lab.host import LabHost
from tests.lab.images import GuestImage
from tests.lab.product import TREE, VIRTRNG, command
from tests.lab.watching import Watching

NO_IMAGE = GuestImage(Path("/none"), Path("/none"), "")
SMALL_MIB = 32
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Runs virtrng with what stands before it changed.
PATCHED = """\
import sys
from virtrng import cli
{}
sys.exit(cli.main(sys.argv[1:]))
"""


def firmware_xml(name: str, **options: Unpack[DomainOptions]) -> str:
    """Return the definition of a small guest that stays in its firmware, where it costs next to nothing."""
    options = {"memory_mib": SMALL_MIB, "root_ports": 2, **options}
    return re.sub(r"<(kernel|initrd|cmdline)>.*?</\1>", "", domain_xml(name, image=NO_IMAGE, **options))


def define_firmware(host: LabHost, name: str, **options: Unpack[DomainOptions]) -> LabGuest:
    """Define one."""
    host.virsh("define", "/dev/stdin", stdin=firmware_xml(name, **options))
    return LabGuest(host, name)


class PatchedWatching(Watching):
    """Runs the watcher once `code` has changed what it is made of."""

    def __init__(self, host: LabHost, tmp_path: Path, code: str, settings: str = "") -> None:
        super().__init__(host, tmp_path, settings)
        self.code = code

    def start(self, *, listening: bool = True, line: Sequence[str] = (), cwd: Path = TREE) -> None:
        """Start it as `Watching` does."""
        arguments = command(self.host, "watch", config=self.config)[len(VIRTRNG) :]
        line = line or [sys.executable, "-c", PATCHED.format(self.code), *arguments]
        super().start(listening=listening, line=line, cwd=cwd)


def signal_daemon(host: LabHost, number: signal.Signals) -> None:
    """Send the host's libvirtd a signal."""
    _signal(host, ["libvirtd.pid"], number)


def signal_qemus(guests: Sequence[LabGuest], number: signal.Signals) -> None:
    """Send the QEMUs of guests, all on one host, a signal."""
    for guest in guests[:1]:
        _signal(guest.host, [f"libvirt/qemu/{one.name}.pid" for one in guests], number)


def _signal(host: LabHost, files: Sequence[str], number: signal.Signals) -> None:
    pids = [host.outside(f"/run/{file}").read_text().strip() for file in files]
    subprocess.run(host.inside("sh", "-c", f"kill -{number:d} {' '.join(pids)}"), check=True)


@contextmanager
def hanging(guests: Sequence[LabGuest]) -> Iterator[None]:
    """Have the QEMUs of guests hang within the block."""
    signal_qemus(guests, signal.SIGSTOP)
    try:
        yield
    finally:
        signal_qemus(guests, signal.SIGCONT)


@contextmanager
def held(watching: Watching) -> Iterator[None]:
    """Keep the watcher from doing anything within the block."""
    assert watching.process is not None
    os.kill(watching.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(watching.process.pid, signal.SIGCONT)


def cpu_s(watching: Watching) -> float:
    """Return how long processors have been at the watcher, in s (proc_pid_stat(5): utime, stime)."""
    assert watching.process is not None
    fields = Path(f"/proc/{watching.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def descriptors(watching: Watching) -> int:
    """Return how many descriptors the watcher has."""
    assert watching.process is not None
    return len([*Path(f"/proc/{watching.process.pid}/fd").iterdir()])
