# SPDX-License-Identifier: LGPL-2.1-or-later
"""Naming guests and counting them, with libvirt's own test driver: none of its guests can have the device."""

import pytest

from tests.unit.cli.conftest import Command
from virtrng.errors import ExitCode, NoGuestMatches, NoGuestNamed

URI = "test:///default"


@pytest.mark.parametrize("what", ["enable", "disable"])
@pytest.mark.parametrize("more", [(), ("--config",), ("--json",), ("--dry-run",)])
def test_nobody_is_named(command: Command, what: str, more: tuple[str, ...]) -> None:
    ran = command("-c", URI, what, *more)
    assert (ran.code, ran.lines) == (ExitCode.USAGE, [])
    assert ran.err.splitlines()[0] == f"virtrng: {NoGuestNamed()}"


def test_a_glob_that_matches_none(command: Command) -> None:
    ran = command("-c", URI, "enable", "--match", "web-*")
    assert ran.code == NoGuestMatches.exit_code
    assert ran.err.startswith(f"virtrng: no guest's name matches 'web-*' at {URI}\n")
    assert "quotes around a glob" in ran.err


@pytest.mark.parametrize("chosen", [("--all",), ("--match", "te*"), ("--running",), ("test",)])
def test_a_refusal_is_told_and_counted(command: Command, chosen: tuple[str, ...]) -> None:
    ran = command("-c", URI, "enable", *chosen)
    assert ran.code == ExitCode.REFUSED
    assert ran.err.startswith("virtrng: test: a guest of type 'test' has no virtio devices\n")
    assert ran.lines == ([] if chosen == ("test",) else ["1 refused"])


def test_nobody_is_in_that_state(command: Command) -> None:
    ran = command("-c", URI, "enable", "--inactive")
    assert (ran.code, ran.lines) == (0, ["nothing to do: there is no such guest"])


def test_disabled_by_libvirts_test_driver(command: Command) -> None:
    ran = command("-c", URI, "disable", "test", "none", "--json")
    assert ran.code == ExitCode.SOME_FAILED
    missing, test = ran.json["domains"]
    assert (missing["name"], missing["uuid"], missing["config"]) == ("none", None, "failed")
    assert (test["changed"], test["config"], test["live"]) == (True, "absent", "absent")
    assert "it is remembered as not wanted" in test["why"]
