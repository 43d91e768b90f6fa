# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng disable` and `virtrng status` against a real libvirtd and guests."""

import time

import pytest

from tests.lab.conftest import NewGuest
from tests.lab.host import LabHost, wait_for
from tests.lab.product import (
    FOREIGN,
    OURS,
    canonical,
    definition,
    live,
    rngs,
    virtrng,
    wait_for_rng,
    wish,
)
from virtrng.cli import main
from virtrng.domain import detach, reconcile
from virtrng.domain.hypervisor import Guest, Hypervisor

OTHERS = "<other:kept xmlns:other='urn:other'>as it is</other:kept>"
# What reconcile waits before it asks again, in its own polls.
POLLS_BEFORE_ASKING_AGAIN = int(detach.ASK_AGAIN_AFTER_S[0] / detach.POLL_S)


@pytest.mark.parametrize("machine", ["q35", "pc"])
@pytest.mark.parametrize("metadata", ["", OTHERS])
def test_the_definition_is_given_back(
    lab_host: LabHost, new_guest: NewGuest, machine: str, metadata: str
) -> None:
    guest = new_guest(machine=machine, metadata=metadata)
    before = definition(guest)
    virtrng(lab_host, "enable", "--rate", "1000/1000", guest.name)
    assert canonical(definition(guest), with_wish=False) != canonical(before)
    said = virtrng(lab_host, "disable", guest.name)
    assert (said.code, said.err) == (0, "")
    assert said.out == (
        f"{guest.name}: definition: taken away\n"
        f"  it is remembered as not wanted; 'virtrng enable {guest.name}' clears that\n"
    )
    assert canonical(definition(guest), with_wish=False) == canonical(before)
    assert wish(definition(guest)) == {"device": "off"}
    disabled = definition(guest)
    (entry,) = virtrng(lab_host, "disable", "--json", guest.name).document["domains"]
    assert (entry["changed"], entry["config"]) == (False, "absent")
    assert definition(guest) == disabled
    virtrng(lab_host, "enable", guest.name)
    assert wish(definition(guest)) == {"device": "on"}
    assert len(rngs(definition(guest))) == 1


@pytest.mark.parametrize("machine", ["q35", "pc"])
@pytest.mark.parametrize("metadata", ["", OTHERS])
def test_forgotten_it_is_as_if_it_had_never_been(
    lab_host: LabHost, new_guest: NewGuest, machine: str, metadata: str
) -> None:
    guest = new_guest(machine=machine, metadata=metadata)
    before = definition(guest)
    virtrng(lab_host, "enable", guest.name)
    assert virtrng(lab_host, "disable", "--forget", guest.name).code == 0
    assert canonical(definition(guest)) == canonical(before)
    # A wish that was recorded goes too, where there is no device to take away.
    virtrng(lab_host, "disable", guest.name)
    (entry,) = virtrng(lab_host, "disable", "--forget", "--json", guest.name).document["domains"]
    assert entry["changed"] is True
    assert canonical(definition(guest)) == canonical(before)


def test_a_running_guest_gives_it_back_too(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest(metadata=OTHERS)
    guest.boot()
    before = definition(guest), live(guest)
    virtrng(lab_host, "enable", guest.name)
    wait_for_rng(guest)
    said = virtrng(lab_host, "disable", "--forget", guest.name)
    assert (said.code, said.err) == (0, "")
    assert [canonical(domain) for domain in (definition(guest), live(guest))] == [
        canonical(domain) for domain in before
    ]
    wait_for_rng(guest, "none")
    # The port is free again.
    virtrng(lab_host, "enable", guest.name)
    wait_for_rng(guest)


def test_a_foreign_device_stays_and_the_wish_is_recorded(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest(extra_devices=FOREIGN)
    before = definition(guest)
    said = virtrng(lab_host, "disable", guest.name)
    assert (said.code, said.err) == (0, "")
    assert "its virtio-rng is not ours (/dev/urandom, unlimited) and stays" in said.out
    assert wish(definition(guest)) == {"device": "off"}
    assert canonical(definition(guest), with_wish=False) == canonical(before)
    assert virtrng(lab_host, "enable", guest.name).code == 0
    assert wish(definition(guest)) is None


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_a_guest_in_early_boot_is_asked_again(
    lab_host: LabHost, new_guest: NewGuest, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    guest = new_guest(machine=machine)
    asked: list[bool] = []
    detach, polls = Guest.detach, iter(range(10_000))

    def counted(self: Guest, alias: str, *, live: bool) -> None:
        asked.append(live)
        detach(self, alias, live=live)

    def sleep(seconds: float) -> None:
        poll = next(polls)
        if poll == 0:  # asked in firmware, which does not listen: the time until it is asked again is skipped
            guest.wait_booted(mark)
        if poll >= POLLS_BEFORE_ASKING_AGAIN:
            time.sleep(seconds)

    monkeypatch.setattr(Guest, "detach", counted)
    mark = guest.console_mark()
    lab_host.virsh("start", "--paused", guest.name)
    virtrng(lab_host, "enable", guest.name)
    lab_host.virsh("resume", guest.name)
    with Hypervisor(lab_host.uri) as hypervisor:
        outcome = reconcile.disable(hypervisor.guest(guest.name), sleep=sleep)
    assert asked[:3] == [False, True, True]
    assert (outcome.config, outcome.live, outcome.error) == ("detached", "detached", None)
    assert rngs(live(guest)) == []
    wait_for_rng(guest, "none")


def test_a_guest_that_never_lets_go_loses_it_at_its_next_start(
    lab_host: LabHost, new_guest: NewGuest
) -> None:
    guest = new_guest()
    lab_host.virsh("start", "--paused", guest.name)
    virtrng(lab_host, "enable", guest.name)
    with Hypervisor(lab_host.uri) as hypervisor:
        outcome = reconcile.disable(hypervisor.guest(guest.name), sleep=lambda _: None)
    # QEMU refuses to ask such a guest twice, and that is no failure of ours.
    assert (outcome.config, outcome.live, outcome.error) == ("detached", "next-start", None)
    assert "gone at its next start" in outcome.why
    assert (len(rngs(definition(guest))), len(rngs(live(guest)))) == (0, 1)


def test_status_shows_definition_and_running_guest_apart(lab_host: LabHost, new_guest: NewGuest) -> None:
    plain, ours, foreign, off, refused = (
        new_guest(extra_devices=extra) for extra in ("", OURS, FOREIGN, OURS, "")
    )
    lab_host.virsh("start", foreign.name)
    lab_host.virsh("start", ours.name)
    virtrng(lab_host, "enable", "--config", "--rate", "8192/1000", ours.name)
    virtrng(lab_host, "disable", refused.name)
    said = virtrng(lab_host, "status", "--json")
    assert said.code == 0
    guests = {guest["name"]: guest for guest in said.document["guests"]}
    shown = {
        guest.name: (guests[guest.name]["running"], guests[guest.name]["wanted"])
        for guest in (plain, ours, foreign, off, refused)
    }
    assert list(shown.values()) == [(False, None), (True, True), (True, None), (False, None), (False, False)]
    assert guests[plain.name]["definition"] == guests[refused.name]["definition"] == []
    assert guests[plain.name]["live"] is None
    assert [one["rate_bytes"] for one in guests[ours.name]["definition"]] == [8192]
    assert [one["rate_bytes"] for one in guests[ours.name]["live"]] == [4096]
    assert [one["ours"] for one in guests[foreign.name]["live"]] == [False]
    assert guests[off.name]["uuid"] == lab_host.virsh("domuuid", off.name)
    text = virtrng(lab_host, "status").out
    rows = {line.split()[0]: line.split(None, 1)[1] for line in text.splitlines() if line.startswith("guest")}
    assert rows[plain.name] == "off       none"
    assert (
        "running guest: /dev/random, 4096 B/1000 ms instead of /dev/random, 8192 B/1000 ms" in rows[ours.name]
    )
    assert rows[refused.name].split() == ["off", "none", "no"]
    assert "ours: /dev/random, 8192 B/1000 ms" in rows[ours.name]
    assert "ours: /dev/random, 4096 B/1000 ms" in rows[ours.name]
    assert rows[foreign.name].count("foreign: /dev/urandom, unlimited") == 2


def test_status_goes_on_when_a_guest_vanishes_meanwhile(
    lab_host: LabHost,
    new_guest: NewGuest,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first, second = new_guest(), new_guest()
    read = Guest.definition

    def vanishing(self: Guest) -> bytes:
        if self.name == first.name:
            lab_host.virsh("undefine", first.name)
        return read(self)

    monkeypatch.setattr(Guest, "definition", vanishing)
    assert main(["--config-file", "/dev/null", "-c", lab_host.uri, "status"]) == 0
    shown = capsys.readouterr().out
    assert second.name in shown
    assert first.name not in shown
    assert "not known" not in shown


def test_the_last_run_wins_on_both_halves(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest(root_ports=2)
    guest.boot()
    for _ in range(3):
        assert virtrng(lab_host, "enable", guest.name).code == 0
        assert (len(rngs(definition(guest))), len(rngs(live(guest)))) == (1, 1)
        assert virtrng(lab_host, "disable", guest.name).code == 0
        assert rngs(definition(guest)) == rngs(live(guest)) == []
    wait_for(lambda: not rngs(live(guest)), "the device to be gone", timeout_s=30)
