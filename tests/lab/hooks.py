# SPDX-License-Identifier: LGPL-2.1-or-later
"""virtrng's hook on a lab host, with another one before it that notes what libvirt calls."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.guest import LabGuest
from tests.lab.host import SERIAL_DIR, LabHost
from tests.lab.product import Said, virtrng

# libvirt runs hooks/qemu before all of qemu.d.
RECORDER = f'#!/bin/sh\necho "$*" >>{SERIAL_DIR}/hook-calls\n'
RUN_DIR = "/run/virtrng"


class Hooks:
    """The hooks of one host: ours, and others that a test puts beside it."""

    def __init__(self, host: LabHost) -> None:
        self.host = host
        self.config = host.root / "virtrng.toml"
        self.directory = host.hooks_dir / "qemu.d"
        self.ours = self.directory / "virtrng"
        self.configure("")

    def configure(self, domains: str) -> None:
        """Write the configuration that the hook was installed with: what [domains] says."""
        self.config.write_text(f'[domains]\n{domains}\n[paths]\nrun_dir = "{RUN_DIR}"\n')

    def command(self, verb: str, *options: str) -> Said:
        """Run 'virtrng hook VERB' on this host's hooks directory."""
        where = ("--hooks-dir", str(self.host.hooks_dir))
        return virtrng(self.host, "hook", verb, *where, *options, config=self.config)

    def install(self) -> None:
        """Install our hook as its user does."""
        said = self.command("install")
        assert (said.code, said.err) == (0, "")

    def put(self, name: str, script: str) -> Path:
        """Put another hook into qemu.d."""
        file = self.directory / name
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return file

    def calls(self, guest: LabGuest) -> list[str]:
        """Return the operations that libvirt called hooks for, for one guest, since the last time."""
        log = self.host.outside(SERIAL_DIR) / "hook-calls"
        lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
        log.unlink(missing_ok=True)
        return [operation for name, operation, *_ in lines if name == guest.name]

    def marks(self) -> list[str]:
        """Return the UUIDs that have a mark."""
        directory = self.host.outside(f"{RUN_DIR}-hook")
        return sorted(path.name for path in directory.iterdir()) if directory.exists() else []

    def tainted(self, guest: LabGuest) -> bool:
        """Whether libvirt says that a hook changed the running guest."""
        return "hook script" in self.host.virsh("dominfo", guest.name)


@contextmanager
def recording(host: LabHost) -> Iterator[Hooks]:
    """Have a host's libvirtd call hooks, and note which; ours is not there yet. Afterwards there are none."""
    recorder = host.hooks_dir / "qemu"
    recorder.write_text(RECORDER)
    recorder.chmod(0o755)
    try:
        host.reload_daemon()
        hooks = Hooks(host)
        hooks.directory.mkdir()
        yield hooks
    finally:
        for path in host.hooks_dir.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for left in map(host.outside, (f"{SERIAL_DIR}/hook-calls", f"{RUN_DIR}-hook")):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        host.reload_daemon()


@contextmanager
def installed(host: LabHost) -> Iterator[Hooks]:
    """Have virtrng's hook on a host, installed from this checkout."""
    with recording(host) as hooks:
        hooks.install()
        yield hooks
