# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng hook install`, `uninstall` and `status`."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Command, Ran
from tests.unit.support import ROOT, in_child
from virtrng import cli
from virtrng.cli import hook as hook_command
from virtrng.domain import daemon, hookfile
from virtrng.domain.daemon import Daemon
from virtrng.errors import ExitCode, ReloadElsewhere, UnsafeHook


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
    absent = {"hook": file, "state": "absent", "others": [], "backups": [], "reload_needed": False}
    assert hooks("status", "--json").json == absent
    first = {"hook": file, "changed": True, "reload_needed": True, "reloaded": []}
    assert hooks("install", "--json").json == first
    assert hooks("install", "--json").json == first | {"changed": False, "reload_needed": False}
    other = put(hooks.file.with_name("other"))
    assert hooks("status", "--json").json == absent | {"state": "installed", "others": [str(other)]}
    assert hooks("uninstall", "--json").json == {"hook": file, "changed": True}
    assert hooks("uninstall", "--json").json == {"hook": file, "changed": False}


def put(file: Path) -> Path:
    """Put another hook there."""
    file.write_text("#!/bin/sh\n")
    file.chmod(0o755)
    return file


def test_backups_that_libvirt_would_run(hooks: Hooks) -> None:
    hooks("install")
    other = put(hooks.file.with_name("other"))
    backups = [put(hooks.file.with_name(name)) for name in (".virtrng.swp", "virtrng.rpmsave", "virtrng~")]
    put(hooks.file.with_name("virtrng.bak")).chmod(0o644)
    assert hooks("status").lines == [
        f"{hooks.file}: installed",
        f"{backups[0]}: looks like a backup, and libvirt runs it: move it away, or 'chmod -x' it",
        f"{other}: another qemu hook, which libvirt runs too",
        *(f"{file}: looks like a backup, and libvirt runs it: move it away, or 'chmod -x' it"
          for file in backups[1:]),
    ]  # fmt: skip
    assert hooks("status", "--json").json["backups"] == [*map(str, backups)]
    hooks("uninstall")
    assert all(file.exists() for file in (other, *backups))


def test_one_that_is_not_executable(hooks: Hooks) -> None:
    hooks("install")
    hooks.file.chmod(0o644)
    assert hooks("status").lines == [f"{hooks.file}: not executable"]
    assert hooks("install").lines[0] == f"{hooks.file}: installed"


def test_reload_is_for_libvirts_own_place(hooks: Hooks) -> None:
    ran = hooks("install", "--reload")
    assert (ran.code, ran.out) == (ExitCode.USAGE, b"")
    trouble = ReloadElsewhere(str(hooks.directory))
    assert ran.err.splitlines() == [f"virtrng: {trouble}", f"  {trouble.remedy}"]
    assert not hooks.directory.exists()


# --- in libvirt's own place


@pytest.fixture
def own(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Give `virtrng hook` over what is libvirt's own place here, beside a libvirtd that has just started."""
    monkeypatch.setattr(hookfile, "DEFAULT_HOOKS_DIR", tmp_path / "hooks")
    monkeypatch.setattr(hookfile, "check_safe", lambda *_: None)
    monkeypatch.setattr(daemon, "running", lambda: [Daemon("libvirtd", 42, time.time() - 1)])
    monkeypatch.setattr(daemon, "installed_version", lambda: (6, 5, 0))
    config_file = tmp_path / "virtrng.toml"
    config_file.write_text("")
    return lambda *words: command("--config-file", config_file, "hook", *words)


UNAWARE = [
    "  libvirtd (pid 42) found no qemu hook when it started, and calls none until it reloads:",
    "  'virtrng hook install --reload' has it do so; guests run on",
]


def test_a_daemon_that_started_without_hooks_is_told_of(own: Callable[..., Ran], tmp_path: Path) -> None:
    assert own("status").lines == [f"{tmp_path}/hooks/qemu.d/virtrng: absent"]
    assert own("install", "--dry-run").lines[1:] == UNAWARE
    assert own("install").lines[1:] == UNAWARE
    assert own("status").lines[1:] == UNAWARE
    assert own("status", "--json").json["reload_needed"] is True
    assert own("install", "--reload", "--dry-run").lines[1:] == ["  libvirtd (pid 42) would reload"]
    assert own("install", "--json").json["reload_needed"] is True


def test_and_made_to_reload(own: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, Path]] = []
    monkeypatch.setattr(daemon, "reload", lambda one, place: told.append((one.name, place)))
    said = "  libvirtd (pid 42) has reloaded: it calls hooks from now on"
    assert own("install", "--reload").lines[1:] == [said]
    assert told == [("libvirtd", tmp_path / "hooks")]
    assert own("install", "--reload", "--json").json == {
        "hook": f"{tmp_path}/hooks/qemu.d/virtrng", "changed": False, "reload_needed": False,
        "reloaded": ["libvirtd"],
    }  # fmt: skip


def test_one_that_knew_of_the_hook_that_is_replaced_need_not(own: Callable[..., Ran], tmp_path: Path) -> None:
    own("install")
    file = tmp_path / "hooks" / "qemu.d" / "virtrng"
    file.write_text(f"{file.read_text()}# of an older version\n")
    os.utime(file, (1e9, 1e9))
    assert own("install", "--json").json == {
        "hook": str(file), "changed": True, "reload_needed": False, "reloaded": [],
    }  # fmt: skip
    assert own("status").lines == [f"{file}: installed"]
    assert own("install", "--reload").lines == [f"{file}: installed already"]


def test_a_libvirt_that_would_not_call_it(
    own: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "installed_version", lambda: (6, 4, 0))
    ran = own("install")
    assert (ran.code, ran.out) == (ExitCode.REFUSED, b"")
    assert ran.err.splitlines() == [
        "virtrng: libvirt 6.4.0 runs no hook but hooks/qemu, which may be somebody else's",
        "  install libvirt 6.5.0 or newer; 'virtrng enable' works without the hook",
    ]
    assert not (tmp_path / "hooks").exists()


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
