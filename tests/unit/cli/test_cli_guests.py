# SPDX-License-Identifier: LGPL-2.1-or-later
"""Naming guests and counting them, with libvirt's own test driver: none of its guests can have the device."""

import os
import signal
from pathlib import Path
from threading import Event

import pytest

from tests.unit.cli.conftest import Command
from virtrng.cli import output
from virtrng.cli.several import AT_ONCE
from virtrng.domain import reconcile
from virtrng.domain.halves import Scope
from virtrng.domain.hypervisor import Guest
from virtrng.domain.reconcile import Outcome
from virtrng.errors import ExitCode, NoGuestMatches, NoGuestNamed, NoHypervisor

URI = "test:///default"
NAMES = [f"g{number:02}" for number in range(4 * AT_ONCE)]
FIRST = 5
DOMAIN = """\
<domain type='test'>
  <name>{}</name>
  <memory>8192</memory>
  <os><type>hvm</type></os>
</domain>"""
disable = reconcile.disable


@pytest.fixture
def many(tmp_path: Path) -> str:
    """Return the URI of a host with all of NAMES."""
    node = tmp_path / "node.xml"
    node.write_text(f"<node>{''.join(map(DOMAIN.format, NAMES))}</node>")
    return f"test://{node}"


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


def test_a_libvirt_that_goes_in_the_middle(
    command: Command, many: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(guest: Guest, scope: Scope, *, forget: bool) -> Outcome:
        if guest.name >= NAMES[FIRST]:
            raise NoHypervisor(many, f"no answer about {guest.name}")
        return disable(guest, scope, forget=forget)

    monkeypatch.setattr(reconcile, "disable", gone)
    ran = command("-c", many, "disable", "--all")
    assert ran.code == ExitCode.SOME_FAILED
    assert [line.split(":")[0] for line in ran.lines if not line.startswith(" ")][:-1] == NAMES[:FIRST]
    # All that are under way find it out: it is told once, of the first in order.
    assert ran.err.splitlines()[0] == f"virtrng: {NoHypervisor(many, f'no answer about {NAMES[FIRST]}')}"
    assert ran.err.count("no libvirt answers") == 1
    possible = range(1, AT_ONCE + 1)
    assert ran.lines[-1] in [
        f"{FIRST} disabled, {failed} failed, {len(NAMES) - FIRST - failed} not reached" for failed in possible
    ]


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_ctrl_c_in_the_middle(
    command: Command, many: str, monkeypatch: pytest.MonkeyPatch, json: tuple[str, ...]
) -> None:
    noted = Event()

    def interrupted(guest: Guest, scope: Scope, *, forget: bool) -> Outcome:
        if guest.name == NAMES[FIRST]:
            os.kill(os.getpid(), signal.SIGINT)
        if guest.name >= NAMES[FIRST]:
            assert noted.wait(30)
        return disable(guest, scope, forget=forget)

    monkeypatch.setattr(reconcile, "disable", interrupted)
    monkeypatch.setattr(output, "note", lambda text: noted.set())
    ran = command("-c", many, "disable", "--all", *json)
    assert ran.code == 130
    if json:
        told = [entry["name"] for entry in ran.json["domains"]]
        assert all(entry["changed"] for entry in ran.json["domains"])
    else:
        told = [line.split(":")[0] for line in ran.lines if not line.startswith(" ")][:-1]
        assert ran.lines[-1] == f"{len(told)} disabled, {len(NAMES) - len(told)} not reached"
    assert told == NAMES[: len(told)]
    assert FIRST < len(told) <= FIRST + AT_ONCE


def test_an_only_one_is_interrupted_at_once(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> Outcome:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("it went on")

    monkeypatch.setattr(reconcile, "disable", interrupted)
    ran = command("-c", URI, "disable", "test")
    assert (ran.code, ran.lines, ran.err) == (130, [], "")
