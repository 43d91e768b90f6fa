# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which guests `virtrng enable` and `disable` are about, and how they are counted."""

import functools
import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from threading import Event

import pytest

from tests.lab.conftest import NewGuest
from tests.lab.host import LabHost, wait_for
from tests.lab.product import FOREIGN, OURS, TREE, Said, command, definition, live, rngs, virtrng, wish
from virtrng.cli import main
from virtrng.cli.several import AT_ONCE
from virtrng.domain.hypervisor import Guest
from virtrng.errors import NoGuestMatches, NoGuestNamed

NOVA = "<n:instance xmlns:n='http://openstack.org/xmlns/libvirt/nova/1.1'/>"
OVIRT = "<o:vm xmlns:o='http://ovirt.org/vm/1.0'/>"
UNWANTED = "<v:guest xmlns:v='urn:virtrng:domain:1' device='off'/>"


@pytest.fixture(scope="module")
def host(lab: None) -> Iterator[LabHost]:
    """Yield a host whose guests are all ours, so that '--all' is exact."""
    with LabHost("gamma") as host:
        yield host


@pytest.fixture
def make(host: LabHost, new_guest: NewGuest) -> NewGuest:
    """Return what defines guests there."""

    return functools.partial(new_guest, host=host)


def given(said: Said) -> dict[str, bool]:
    """Return the guests that a command was about, and whether each changed."""
    return {entry["name"]: entry["changed"] for entry in said.document["domains"]}


def last(said: Said) -> str:
    """Return the summary."""
    return said.out.splitlines()[-1]


def test_all_with_what_each_of_them_wants(host: LabHost, make: NewGuest) -> None:
    plain, ours, refused, foreign = (
        make(), make(extra_devices=OURS), make(metadata=UNWANTED), make(extra_devices=FOREIGN)
    )  # fmt: skip
    nova, ovirt = make(metadata=NOVA), make(metadata=OVIRT)
    shown = virtrng(host, "enable", "--all", "--dry-run")
    assert shown.code == 0
    assert shown.out.count("+    <rng") == 1
    said = virtrng(host, "enable", "--all")
    assert (said.code, said.err) == (0, "")
    told = dict(line.split(": ", 1) for line in said.out.splitlines()[:-1])
    assert set(told) == {plain.name, ours.name, foreign.name, nova.name, ovirt.name}
    assert told[nova.name] == "managed by Nova, and left alone unless it is named"
    assert told[ovirt.name] == "managed by oVirt, and left alone unless it is named"
    assert last(said) == (
        "2 enabled, 1 not wanted by the guest, 2 left to the program that manages them,"
        " 1 with a virtio-rng of their own"
    )  # ours had no wish yet
    assert [len(rngs(definition(one))) for one in (plain, ours, refused, nova, ovirt)] == [1, 1, 0, 0, 0]
    said = virtrng(host, "enable", "--all")
    assert said.out.startswith(f"{foreign.name}: already has a virtio-rng (foreign")
    assert last(said).startswith("2 already so, ")
    # Named they are meant.
    said = virtrng(host, "enable", "--all", refused.name, nova.name)
    assert given(virtrng(host, "enable", "--all", "--json"))[refused.name] is False
    assert last(said).startswith("2 enabled, 2 already so, 1 left to")
    assert wish(definition(refused)) == {"device": "on"}
    said = virtrng(host, "disable", "--all")
    assert last(said) == (
        "3 disabled, 2 left to the program that manages them, 1 with a virtio-rng of their own"
    )
    assert len(rngs(definition(nova))) == 1
    assert len(rngs(definition(plain))) == 0


def test_by_glob_and_by_state(host: LabHost, make: NewGuest) -> None:
    running, off = make(root_ports=2), make()
    host.virsh("start", running.name)
    for options, expected in {
        (): {running.name: True, off.name: True},
        ("--match", running.name): {running.name: True},
        ("--match", f"{off.name[:-1]}?"): {running.name: True, off.name: True},
        ("--match", off.name, "--match", running.name): {running.name: True, off.name: True},
        ("--running",): {running.name: True},
        ("--inactive",): {off.name: True},
        ("--all", "--running", "--inactive"): {running.name: True, off.name: True},
        ("--match", "*", "--inactive"): {off.name: True},
        (running.name, off.name, "--running"): {running.name: True},
        (running.name, "--match", off.name): {running.name: True, off.name: True},
        (running.name, "--inactive"): {},
    }.items():
        chosen = options or ("--all",)
        assert given(virtrng(host, "enable", "--config", *chosen, "--json")) == expected, options
        assert virtrng(host, "disable", "--config", "--forget", "--all").code == 0


def test_nothing_named_and_nothing_found(host: LabHost, make: NewGuest) -> None:
    guest = make()
    for what in ("enable", "disable"):
        for more in ([], ["--json"], ["--dry-run"]):
            said = virtrng(host, what, *more)
            assert (said.code, said.out) == (NoGuestNamed.exit_code, "")
            assert said.err == (
                "virtrng: no guest is named\n"
                "  name guests, or take --all, --match GLOB, --running or --inactive\n"
            )
    said = virtrng(host, "enable", "--match", "web-*")
    assert said.code == NoGuestMatches.exit_code
    assert said.err.startswith(f"virtrng: no guest's name matches 'web-*' at {host.uri}\n")
    said = virtrng(host, "enable", "--match", "web-*", guest.name)
    assert (said.code, last(said)) == (5, "1 enabled, 1 failed")
    assert virtrng(host, "enable", "--match", "web-*", "--dry-run", guest.name).code == 5
    said = virtrng(host, "enable", "--running")
    assert (said.code, said.out) == (0, "nothing to do: there is no such guest\n")


def test_some_that_fail_keep_nobody_from_theirs(host: LabHost, make: NewGuest) -> None:
    first, none, last_one = make(), make(machine="microvm"), make()
    said = virtrng(host, "enable", "--all")
    assert said.code == 5
    assert f"{none.name}: its machine has no bus for a virtio device" in said.err
    assert last(said) == "2 enabled, 1 refused"
    for guest in (first, last_one):
        assert len(rngs(definition(guest))) == 1


def test_a_libvirtd_that_goes_away_among_many(
    host: LabHost, make: NewGuest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guests = [make() for _ in range(3 * AT_ONCE)]
    attach, seen = Guest.attach, itertools.count(1)
    first_attached, restarted = Event(), Event()

    def restarted_before_the_second(self: Guest, device: str, *, live: bool) -> None:
        number = next(seen)
        if number == 2:
            assert first_attached.wait(60)
            host.restart_daemon()
            restarted.set()
        elif number > 2:
            assert restarted.wait(60)
        attach(self, device, live=live)
        first_attached.set()

    with monkeypatch.context() as patched:
        patched.setattr(Guest, "attach", restarted_before_the_second)
        code = main(["--config-file", "/dev/null", "-c", host.uri, "enable", "--all"])
    said = capsys.readouterr()
    assert code == 5
    assert said.err.startswith(f"virtrng: no libvirt answers at {host.uri}: ")
    assert said.err.count("no libvirt answers") == 1
    summary = [one.split(" ", 1) for one in said.out.splitlines()[-1].split(", ")]
    counts = {word: int(count) for count, word in summary}
    assert counts.get("enabled", 0) in (0, 1)  # 0 if it is gone before the first is read back
    assert 0 < counts["failed"] <= AT_ONCE + 1
    assert sum(counts.values()) == len(guests)
    assert virtrng(host, "enable", "--all").code == 0
    assert [(len(rngs(definition(one))), wish(definition(one))) for one in guests] == (
        [(1, {"device": "on"})] * len(guests)
    )


def test_a_guest_that_takes_long_holds_up_no_other(
    host: LabHost, make: NewGuest, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    guests = {guest.name: guest for guest in [make() for _ in range(3 * AT_ONCE)]}
    slow, *others = sorted(guests)
    attach = Guest.attach

    def held_up(self: Guest, device: str, *, live: bool) -> None:
        if self.name == slow:
            wait_for(
                lambda: all(rngs(definition(guests[name])) for name in others), "the others", timeout_s=60
            )
        attach(self, device, live=live)

    monkeypatch.setattr(Guest, "attach", held_up)
    assert main(["--config-file", "/dev/null", "-c", host.uri, "enable", "--all"]) == 0
    *told, summary = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in told] == [slow, *others]
    assert summary == f"{len(guests)} enabled"


def test_the_last_port_is_left_to_the_owner_of_a_guest_that_was_not_named(
    host: LabHost, make: NewGuest
) -> None:
    one, two, none = make(root_ports=1), make(root_ports=2), make(root_ports=0)
    for guest in (one, two, none):
        host.virsh("start", guest.name)
    said = virtrng(host, "enable", "--running")
    assert (said.code, said.err) == (0, "")
    told = said.out.splitlines()
    at = next(n for n, line in enumerate(told) if line.startswith(f"{one.name}: "))
    assert told[at].endswith(
        ": its last free pcie-root-port is left to whatever else is plugged in: from its next start"
    )
    assert told[at + 1] == f"  'virtrng enable {one.name}' takes it"
    at = next(n for n, line in enumerate(told) if line.startswith(f"{none.name}: "))
    assert told[at].endswith("running guest: no pcie-root-port is free: from its next start")
    assert told[at + 1] == (
        "  one more <controller type='pci' model='pcie-root-port'/> by"
        f" 'virsh edit {none.name}' is a free port from its next start"
    )
    assert [len(rngs(live(guest))) for guest in (one, two, none)] == [0, 1, 0]
    assert [len(rngs(definition(guest))) for guest in (one, two, none)] == [1, 1, 1]
    said = virtrng(host, "enable", one.name)
    assert "on its last free pcie-root-port until its next start" in said.out
    assert len(rngs(live(one))) == 1


def test_on_a_terminal_a_bar_shows_how_far_it_is(host: LabHost, make: NewGuest) -> None:
    guests = [make() for _ in range(10)]
    plain = virtrng(host, "enable", "--all")
    assert plain.err == ""
    assert last(plain) == f"{len(guests)} enabled"
    shown = on_terminal(host, "enable", "--all")
    assert "enable" in shown
    assert "━" in shown


def on_terminal(host: LabHost, *arguments: str) -> str:
    """Return what virtrng shows on a terminal that is its stderr alone."""
    ours, theirs = os.openpty()
    line = command(host, *arguments)
    with subprocess.Popen(line, cwd=TREE, stdout=subprocess.DEVNULL, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with suppress(OSError):  # what the other end of a terminal gives when all have closed it
            while chunk := os.read(ours, 65536):
                shown += chunk
        os.close(ours)
    assert process.returncode == 0
    return shown.decode()
