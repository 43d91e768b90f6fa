# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng render`."""

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Command
from virtrng import render
from virtrng.config import DEFAULTS
from virtrng.errors import ExitCode, NoSuchTemplate


@pytest.mark.parametrize("name", render.NAMES)
def test_each_name_is_printed_with_one_end_of_line(name: str, command: Command) -> None:
    ran = command("render", name)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.decode() == render.render(name, DEFAULTS).rstrip("\n") + "\n"


def test_the_device_follows_the_configuration(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "virtrng.toml"
    file.write_text("[domains]\nrate.bytes = 5\n")
    assert b'<rate bytes="5" period="1000"/>' in command("--config-file", file, "render", "rng.xml").out


@pytest.mark.parametrize("name", ["nonesuch", "virtrng.toml.j2", "../hooks/qemu", ""])
def test_no_other_name_is_known(name: str, command: Command) -> None:
    ran = command("render", name)
    assert (ran.code, ran.out) == (ExitCode.USAGE, b"")
    trouble = NoSuchTemplate(name, ", ".join(render.NAMES))
    assert ran.err.splitlines() == [f"virtrng: {trouble}", f"  {trouble.remedy}"]
