# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests that somebody else gave a virtio-rng: kept, replaced on request, and put back."""

import os
import signal

import pytest

from tests.lab.conftest import NewGuest
from tests.lab.guest import LabGuest
from tests.lab.host import LabHost
from tests.lab.product import (
    ALIAS,
    FOREIGN,
    OURS,
    canonical,
    definition,
    live,
    read_hwrng,
    rngs,
    virtrng,
    wait_for_rng,
    wish,
)
from tests.lab.reconciled import NOTHING_ASKED, REPLACE, disable, enable
from tests.unit.support import in_child
from virtrng.domain.halves import Scope
from virtrng.domain.hypervisor import Guest
from virtrng.errors import HypervisorFault

BUILTIN = "<rng model='virtio'><rate bytes='9' period='7'/><backend model='builtin'/></rng>"
EGD = (
    "<rng model='virtio'><backend model='egd' type='unix'>"
    "<source mode='bind' path='/run/virtrng-lab/egd'/></backend></rng>"
)
LEFT = "already has a virtio-rng (foreign, /dev/urandom, unlimited), fed by the same host pool"
POLICY = ("/dev/random", (4096, 1000))


def assert_ours_alone(domain: str) -> None:
    """The device of policy and no other."""
    assert [(one.alias, one.source, one.rate) for one in rngs(domain)] == [(ALIAS, *POLICY)]


def foreign(guest: LabGuest) -> list[str]:
    """Return the aliases of the devices in the definition: libvirt keeps none of theirs."""
    return [one.alias for one in rngs(definition(guest))]


def test_the_answer_is_one_sentence_with_the_remedy(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest(extra_devices=FOREIGN)
    said = virtrng(lab_host, "enable", guest.name)
    assert (said.code, said.err) == (0, "")
    assert said.out == f"{guest.name}: {LEFT}; --replace brings it to policy\n"
    twice = new_guest(extra_devices=FOREIGN + EGD)
    said = virtrng(lab_host, "enable", twice.name)
    assert said.out == (
        f"{twice.name}: already has 2 virtio-rngs (foreign, /dev/urandom, unlimited; egd, unlimited);"
        " --replace makes one of them\n"
    )


@pytest.mark.parametrize("machine", ["q35", "pc"])
@pytest.mark.parametrize("extra", [FOREIGN, BUILTIN, FOREIGN + BUILTIN, EGD])
def test_disabled_it_is_as_it_was_before_it_was_replaced(
    new_guest: NewGuest, machine: str, extra: str
) -> None:
    guest = new_guest(machine=machine, extra_devices=extra)
    before = definition(guest)
    outcome = enable(guest, REPLACE)
    assert (outcome.changed, outcome.config, outcome.error) == (True, "replaced", None)
    assert_ours_alone(definition(guest))
    once = definition(guest)
    for request in (REPLACE, NOTHING_ASKED):
        assert enable(guest, request).config == "already"
        assert definition(guest) == once
    assert "put back" in disable(guest).why
    assert canonical(definition(guest), with_wish=False) == canonical(before)
    assert wish(definition(guest)) == {"device": "off"}
    assert disable(guest).changed is False
    enable(guest, REPLACE)
    disable(guest, forget=True)
    assert canonical(definition(guest)) == canonical(before)


def test_a_running_guest_changes_at_once(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest(extra_devices=FOREIGN)
    guest.boot()
    wait_for_rng(guest)
    before = definition(guest), live(guest)
    shown = virtrng(lab_host, "enable", "--dry-run", "--replace", guest.name)
    assert (definition(guest), live(guest)) == before
    said = virtrng(lab_host, "enable", "--replace", guest.name)
    assert (said.code, said.err) == (0, "")
    assert "in the place of its own (/dev/urandom, unlimited)" in said.out
    for domain in (definition(guest), live(guest)):
        assert_ours_alone(domain)
    assert shown.out.count(f'+      <alias name="{ALIAS}"/>') == 2
    assert shown.out.count("<virtrng:replaced>") == 2
    # The port that the old one had.
    (old,), (new,) = rngs(before[1]), rngs(live(guest))
    assert (new.bus, new.slot) == (old.bus, old.slot)
    wait_for_rng(guest)
    assert read_hwrng(guest) == 64
    said = virtrng(lab_host, "disable", "--forget", guest.name)
    assert (said.code, said.err) == (0, "")
    assert canonical(definition(guest)) == canonical(before[0])
    assert [(one.source, one.rate) for one in rngs(live(guest))] == [("/dev/urandom", None)]
    wait_for_rng(guest)
    assert read_hwrng(guest) == 64


def test_a_device_that_qemu_may_not_survive_losing_goes_at_the_next_start(
    lab_host: LabHost, new_guest: NewGuest
) -> None:
    guest = new_guest(extra_devices=EGD)
    lab_host.virsh("start", guest.name)
    said = virtrng(lab_host, "enable", "--replace", guest.name)
    assert (said.code, said.err) == (0, "")
    assert "running guest: QEMU may not survive the loss of its egd device: from its next start" in said.out
    assert_ours_alone(definition(guest))
    assert [one.alias for one in rngs(live(guest))] == ["rng0"]
    lab_host.virsh("destroy", guest.name)
    lab_host.virsh("start", guest.name)
    assert_ours_alone(live(guest))
    assert virtrng(lab_host, "enable", "--live", guest.name).code == 0


@pytest.mark.parametrize("extra", [OURS + FOREIGN, FOREIGN + BUILTIN + OURS])
def test_several_are_reported_and_reduced_to_one_on_request(new_guest: NewGuest, extra: str) -> None:
    guest = new_guest(extra_devices=extra)
    before = definition(guest)
    outcome = enable(guest)
    assert (outcome.config, outcome.error) == ("already", None)
    assert "beside it is another virtio-rng (foreign, /dev/urandom, unlimited" in outcome.why
    assert len(rngs(definition(guest))) == len(rngs(before))
    assert enable(guest, REPLACE).config == "replaced"
    assert_ours_alone(definition(guest))
    disable(guest, forget=True)
    assert foreign(guest) == [one.alias for one in rngs(before) if one.alias != ALIAS]


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_cut_short_the_next_run_completes_it_without_being_asked_again(
    new_guest: NewGuest, monkeypatch: pytest.MonkeyPatch, machine: str
) -> None:
    guest = new_guest(machine=machine, extra_devices=FOREIGN)
    before = definition(guest)
    for call in ("detach_foreign", "attach"):
        with monkeypatch.context() as patched:
            patched.setattr(Guest, call, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
            assert in_child(lambda: enable(guest, REPLACE)) == ""
        assert len(rngs(definition(guest))) == (1 if call == "detach_foreign" else 0)
        assert enable(guest).changed is True
        assert_ours_alone(definition(guest))
        disable(guest, forget=True)
        assert canonical(definition(guest)) == canonical(before)


@pytest.mark.parametrize("call", ["detach", "attach"])
def test_a_disable_that_is_cut_short_is_completed_too(
    new_guest: NewGuest, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    guest = new_guest(extra_devices=FOREIGN)
    before = definition(guest)
    enable(guest, REPLACE)
    with monkeypatch.context() as patched:
        patched.setattr(Guest, call, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        assert in_child(lambda: disable(guest)) == ""
    assert wish(definition(guest)) == {"device": "off"}
    disable(guest)
    assert canonical(definition(guest), with_wish=False) == canonical(before)
    assert wish(definition(guest)) == {"device": "off"}


def test_what_cannot_be_replaced_is_put_back(new_guest: NewGuest, monkeypatch: pytest.MonkeyPatch) -> None:
    guest = new_guest(extra_devices=FOREIGN)
    before = definition(guest)
    attach = Guest.attach

    def refuse_ours(self: Guest, device: str, *, live: bool) -> None:
        # As long as libvirt has a say: its RelaxNG knows no such model.
        attach(self, device.replace("virtio", "none") if ALIAS in device else device, live=live)

    monkeypatch.setattr(Guest, "attach", refuse_ours)
    with pytest.raises(HypervisorFault, match="libvirt failed to attach the device to"):
        enable(guest, REPLACE)
    assert canonical(definition(guest), with_wish=False) == canonical(before)


def test_a_place_that_is_taken_meanwhile_keeps_nothing_from_coming_back(new_guest: NewGuest) -> None:
    guest = new_guest(machine="pc", extra_devices=FOREIGN)
    (old,) = rngs(definition(guest))
    enable(guest, REPLACE, Scope(live=False))
    balloon = f"<memballoon model='virtio'><address type='pci' bus='0' slot='{old.slot}'/></memballoon>"
    moved = definition(guest).replace("<memballoon model='none'/>", balloon)
    ours_elsewhere = moved.replace(f"<alias name='{ALIAS}'/>", f"<alias name='{ALIAS}'/><!-- -->")
    start = ours_elsewhere.index("<!-- -->")
    end = ours_elsewhere.index("/>", start + 8) + 2
    guest.host.virsh("define", "/dev/stdin", stdin=ours_elsewhere[:start] + ours_elsewhere[end:])
    disable(guest)
    (back,) = rngs(definition(guest))
    assert (back.source, back.rate) == (old.source, old.rate)
    assert back.slot != old.slot


def test_by_the_configuration(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest, kept = new_guest(extra_devices=FOREIGN), new_guest(extra_devices=FOREIGN)
    config = lab_host.root / "replace.toml"
    config.write_text(f'[[domains.rule]]\nmatch = "{guest.name}"\nforeign = "replace"\n')
    said = virtrng(lab_host, "status", "--check", config=config)
    assert f"{guest.name}: definition: a foreign one (/dev/urandom, unlimited) instead of " in said.out
    assert kept.name not in said.out
    assert virtrng(lab_host, "enable", guest.name, kept.name, config=config).code == 0
    assert_ours_alone(definition(guest))
    assert [one.source for one in rngs(definition(kept))] == ["/dev/urandom"]
    assert guest.name not in virtrng(lab_host, "status", "--check", config=config).out
