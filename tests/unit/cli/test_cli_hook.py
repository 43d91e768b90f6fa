# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng hook install`, `uninstall` and `status`."""

import sys
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Command, Ran
from tests.unit.support import ROOT, in_child
from virtrng import cli
from virtrng.cli import hook as hook_command
from virtrng.domain import hookfile
from virtrng.errors import ExitCode, UnsafeHook


class Hooks:
    """`virtrng hook` over one directory."""

    def __init__(self, command: Command, directory: Path, config_file: Path) -> None:
        self.command = command
        self.directory = directory
        self.config_file = config_file
        self.file = directory / "qemu.d" / "virtrng"
        config_file.write_text("")

    def __call__(self, *words: str) -> Ran:
        return self.command("--config-file", self.config_file, "hook", *words, "--hooks-dir", self.directory)


@pytest.fixture
def hooks(command: Command, tmp_path: Path) -> Hooks:
    return Hooks(command, tmp_path / "hooks", tmp_path / "virtrng.toml")


RELOAD = [
    "  it is the first qemu hook there: a libvirtd that runs must reload before it calls it",
    "  ('systemctl reload libvirtd', or virtqemud, or SIGHUP)",
]


def test_from_nothing_and_back(hooks: Hooks) -> None:
    assert hooks("status").lines == [f"{hooks.file}: absent"]
    assert hooks("install").lines == [f"{hooks.file}: installed", *RELOAD]
    assert hooks("install").lines == [f"{hooks.file}: installed already"]
    assert hooks("status").lines == [f"{hooks.file}: installed"]
    assert hooks("uninstall").lines == [f"{hooks.file}: removed"]
    assert hooks("uninstall").lines == [f"{hooks.file}: is not there"]


def test_it_knows_the_package_and_the_configuration(hooks: Hooks) -> None:
    hooks("install")
    content = hooks.file.read_text()
    assert f"\npackage={ROOT}\n" in content
    assert f"\nconfig={hooks.config_file}\n" in content


def test_json(hooks: Hooks) -> None:
    file = str(hooks.file)
    assert hooks("status", "--json").json == {"hook": file, "state": "absent", "others": []}
    assert hooks("install", "--json").json == {"hook": file, "changed": True, "reload_needed": True}
    assert hooks("install", "--json").json == {"hook": file, "changed": False, "reload_needed": False}
    hooks.file.with_name("other").write_text("#!/bin/sh\n")
    hooks.file.with_name("other").chmod(0o755)
    assert hooks("status", "--json").json == {
        "hook": file,
        "state": "installed",
        "others": [str(hooks.file.with_name("other"))],
    }
    assert hooks("uninstall", "--json").json == {"hook": file, "changed": True}
    assert hooks("uninstall", "--json").json == {"hook": file, "changed": False}


def test_dry_run_changes_nothing(hooks: Hooks) -> None:
    assert hooks("install", "--dry-run").lines == [f"{hooks.file}: would be installed", *RELOAD]
    assert not hooks.directory.exists()
    assert hooks("uninstall", "--dry-run").lines == [f"{hooks.file}: is not there"]
    hooks("install")
    assert hooks("install", "--dry-run").lines == [f"{hooks.file}: installed already"]
    assert hooks("uninstall", "--dry-run").lines == [f"{hooks.file}: would be removed"]
    hooks.file.chmod(0o644)
    assert hooks("install", "--dry-run").lines == [f"{hooks.file}: would be installed"]
    assert hooks.file.exists()


def test_beside_another_hook_nothing_must_reload(hooks: Hooks) -> None:
    hooks.directory.mkdir()
    other = hooks.directory / "qemu"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    assert hooks("install").lines == [f"{hooks.file}: installed"]
    assert hooks("status").lines == [
        f"{hooks.file}: installed",
        f"{other}: another qemu hook, which libvirt runs too",
    ]
    hooks("uninstall")
    assert other.read_text() == "#!/bin/sh\n"


def test_an_outdated_one(hooks: Hooks) -> None:
    hooks("install")
    hooks.config_file = hooks.config_file.with_name("other.toml")
    hooks.config_file.write_text("")
    assert hooks("status").lines == [f"{hooks.file}: outdated"]
    assert hooks("install").lines == [f"{hooks.file}: installed"]
    assert hooks("status").lines == [f"{hooks.file}: installed"]


@pytest.mark.parametrize(
    "words", [["install"], ["uninstall"], ["install", "--dry-run"], ["uninstall", "--dry-run"]]
)
def test_a_file_of_somebody_elses_is_refused(words: list[str], hooks: Hooks) -> None:
    hooks.file.parent.mkdir(parents=True)
    hooks.file.write_text("#!/bin/sh\n")
    assert hooks("status").lines == [f"{hooks.file}: foreign"]
    ran = hooks(*words)
    assert (ran.code, ran.out) == (1, b"")
    assert ran.err.splitlines() == [
        f"virtrng: {hooks.file} exists and was not written by virtrng",
        "  move it away, then run the same command again",
    ]
    assert hooks.file.read_text() == "#!/bin/sh\n"


@pytest.mark.parametrize(("text", "code"), [("[domains]\nrequire = 1", 2), ("[", 2)])
def test_a_broken_configuration_is_not_installed(text: str, code: int, hooks: Hooks) -> None:
    hooks.config_file.write_text(text)
    assert hooks("install").code == code
    assert not hooks.directory.exists()


def test_a_missing_configuration_that_was_named(hooks: Hooks) -> None:
    hooks.config_file.unlink()
    assert hooks("install").code == ExitCode.USAGE


def test_in_libvirts_own_place_all_must_be_roots(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hookfile, "DEFAULT_HOOKS_DIR", tmp_path / "hooks")
    package = tmp_path / "lib" / "virtrng"
    package.mkdir(parents=True)
    module = package / "module.py"
    module.write_text("")
    module.chmod(0o666)
    monkeypatch.setattr(hook_command, "PACKAGE", package)
    ran = command("hook", "install")
    assert (ran.code, ran.out) == (ExitCode.REFUSED, b"")
    unsafe = UnsafeHook(str(module))
    assert ran.err.splitlines() == [f"virtrng: {unsafe}", f"  {unsafe.remedy}"]
    assert not (tmp_path / "hooks").exists()


@pytest.mark.parametrize("verb", ["install", "uninstall", "status"])
def test_a_directory_that_may_not_be_looked_into(verb: str, open_path: Path) -> None:
    hidden = open_path / "hidden"
    hidden.mkdir()
    hidden.chmod(0)

    def attempt() -> int:
        with (open_path / "stderr").open("w") as sys.stderr:
            return int(cli.main(["hook", verb, "--hooks-dir", str(hidden)]))

    said = in_child(attempt, nobody=True)
    hidden.chmod(0o700)
    assert said == "1"
    first, second = (open_path / "stderr").read_text().splitlines()
    assert first.startswith("virtrng: cannot ")
    assert first.endswith(": Permission denied")
    assert second.startswith("  check its directory")
