# SPDX-License-Identifier: LGPL-2.1-or-later
"""The SELinux module of docs/hook.md is built, with the commands that stand there. It is not run: that
needs a Fedora that enforces."""

import re
import subprocess
from pathlib import Path

from tests.lab.images import unpacked
from tests.lab.product import TREE

PACKAGES = ("checkpolicy", "semodule-utils")
MODULE = TREE / "docs" / "virtrng_hook.te"
# struct of libsepol's policydb/module.h: SEPOL_MODULE_PACKAGE_MAGIC, and of policydb.h for a module.
PACKAGE_MAGIC, MODULE_MAGIC = 0xF97CFF8F, 0xF97CFF8D


def documented() -> list[list[str]]:
    """Return the commands of docs/hook.md that build it."""
    text = (TREE / "docs" / "hook.md").read_text()
    lines = re.findall(r"^    ((?:checkmodule|semodule_package) .*)$", text, re.MULTILINE)
    return [line.split() for line in lines]


def test_it_is_built_as_documented(tmp_path: Path) -> None:
    programs = {path.name: path for package in PACKAGES for path in unpacked(package).glob("usr/bin/*")}
    (tmp_path / MODULE.name).write_text(MODULE.read_text())
    commands = documented()
    assert [command[0] for command in commands] == ["checkmodule", "semodule_package"]
    for command in commands:
        line = [str(programs[command[0]]), *command[1:]]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    package = (tmp_path / "virtrng_hook.pp").read_bytes()
    assert int.from_bytes(package[:4], "little") == PACKAGE_MAGIC
    assert MODULE_MAGIC.to_bytes(4, "little") in package
    assert b"virtrng_hook" in package
    assert b"virt_hook_unconfined_t" in package


def test_a_slip_would_be_seen(tmp_path: Path) -> None:
    (checkmodule,) = unpacked("checkpolicy").glob("usr/bin/checkmodule")
    slip = tmp_path / "slip.te"
    slip.write_text(MODULE.read_text().replace("    type virtqemud_t;\n", ""))
    done = subprocess.run(
        [str(checkmodule), "-M", "-m", "-o", str(tmp_path / "slip.mod"), str(slip)], capture_output=True
    )
    assert done.returncode != 0
    assert b"virtqemud_t" in done.stderr


def test_the_documents_say_that_it_was_not_run() -> None:
    assert "built, not run" in (TREE / "docs" / "hook.md").read_text()
