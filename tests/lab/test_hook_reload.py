# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng hook install --reload` in libvirt's own place, beside a libvirtd that started without a hook."""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import NewGuest
from tests.lab.host import LabHost
from tests.lab.images import LabError
from tests.lab.product import TREE, Said


class Inside:
    """virtrng as a package of the host's own, run inside it."""

    def __init__(self, host: LabHost) -> None:
        self.host = host
        self.place = host.root / "virtrng"
        for part in ("virtrng", "hooks"):
            shutil.copytree(TREE / part, self.place / part, ignore=shutil.ignore_patterns("__pycache__"))
        self.config = self.place / "virtrng.toml"
        self.config.write_text('[domains]\nrequire = "refuse"\n')
        subprocess.run(["chmod", "-R", "go-w", self.place], check=True)

    def hook(self, *words: str) -> Said:
        """Run 'virtrng hook …' there, as root of that host."""
        line = ["/usr/bin/python3", "-m", "virtrng", "--config-file", str(self.config), "hook", *words]
        command = self.host.inside("env", f"PYTHONPATH={self.place}", "PYTHONDONTWRITEBYTECODE=1", *line)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def inside(lab_host: LabHost) -> Iterator[Inside]:
    inside = Inside(lab_host)
    lab_host.restart_daemon()  # it finds no hook
    yield inside
    for path in (inside.place, *lab_host.hooks_dir.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    lab_host.reload_daemon()


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*"))


def test_the_daemon_is_told_and_calls_it(inside: Inside, lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest()
    assert (inside.hook("status").code, names(lab_host.hooks_dir)) == (0, [])
    said = inside.hook("install")
    assert (said.code, said.err) == (0, "")
    assert "found no qemu hook when it started" in said.out
    lab_host.virsh("start", guest.name)  # as it says: nobody is asked
    lab_host.virsh("destroy", guest.name)
    assert json.loads(inside.hook("status", "--json").out)["reload_needed"] is True
    said = inside.hook("install", "--reload")
    assert said.code == 0, said.err
    assert "has reloaded" in said.out
    assert names(lab_host.hooks_dir) == ["qemu.d", "qemu.d/virtrng"]
    with pytest.raises(LabError, match="this host's policy requires one"):
        lab_host.virsh("start", guest.name)
    lab_host.restart_daemon()
    assert json.loads(inside.hook("status", "--json").out)["reload_needed"] is False
    assert "reload" not in inside.hook("install", "--reload").out
    said = inside.hook("uninstall")
    assert (said.code, said.err) == (0, "")
    lab_host.virsh("start", guest.name)


def test_a_reload_that_is_under_way_is_waited_for(inside: Inside, lab_host: LabHost) -> None:
    directory = lab_host.hooks_dir / "daemon.d"
    directory.mkdir()
    slow = directory / "slow"
    slow.write_text("#!/bin/sh\n[ $2 != reload ] || sleep 2\n")
    slow.chmod(0o755)
    lab_host.reload_daemon()
    said = inside.hook("install", "--reload", "--json")
    assert said.code == 0, said.err
    assert said.document["reloaded"] == ["libvirtd"]
    assert names(directory) == ["slow"]
