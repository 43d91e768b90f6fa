# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng enable` against a real libvirtd and guests."""

import re

import pytest

from tests.lab.conftest import NewGuest
from tests.lab.guest import DomainOptions, LabGuest, domain_xml
from tests.lab.host import LabHost
from tests.lab.images import GuestImage
from tests.lab.product import (
    ALIAS,
    FOREIGN,
    NO_CONFIG,
    Rng,
    added_rng,
    definition,
    first_rng,
    live,
    read_hwrng,
    rngs,
    virtrng,
    wait_for_rng,
    wish,
)

DEFAULT_RATE = (4096, 1000)
KEYS = ["name", "uuid", "changed", "config", "live", "why"]
# The highest slot of the root complex with nothing implicit in it.
SLOT = 0x19
ON_ROOT_COMPLEX = Rng(ALIAS, "/dev/random", DEFAULT_RATE, bus=0, slot=SLOT)


def hotplug_a_disk(host: LabHost, guest: LabGuest) -> str:
    """Give a running guest a disk, which takes its last free root port; return the disk's address."""
    disk = host.outside("/var/lib/libvirt") / f"{guest.name}.img"
    disk.write_bytes(bytes(1 << 20))
    host.virsh("attach-disk", guest.name, str(disk), "vda", "--targetbus", "virtio", "--live")
    found = re.search(r"<target dev='vda'.*?(<address [^>]*>)", live(guest), re.DOTALL)
    assert found
    return found[1]


def test_a_stopped_guest_gets_it_and_keeps_its_free_port(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest()
    before = definition(guest)
    said = virtrng(lab_host, "enable", guest.name)
    assert (said.code, said.err) == (0, "")
    given = "given a virtio-rng (/dev/random, 4096 B/1000 ms), from its next start"
    assert said.out == f"{guest.name}: definition: {given}\n"
    after = definition(guest)
    assert rngs(after) == [ON_ROOT_COMPLEX]
    assert wish(after) == {"device": "on"}
    assert after.count("<controller") == before.count("<controller")
    guest.boot()
    wait_for_rng(guest)
    assert read_hwrng(guest) == 64
    assert "bus='0x01'" in hotplug_a_disk(lab_host, guest)


def test_a_running_guest_gets_it_at_once_and_another_rate_in_place(
    lab_host: LabHost, new_guest: NewGuest
) -> None:
    guest = new_guest()
    guest.boot()
    said = virtrng(lab_host, "enable", guest.name)
    assert (said.code, said.err) == (0, "")
    assert "running guest: given a virtio-rng" in said.out
    assert "on its last free pcie-root-port until its next start" in said.out
    assert rngs(definition(guest)) == [ON_ROOT_COMPLEX]
    assert rngs(live(guest)) == [Rng(ALIAS, "/dev/random", DEFAULT_RATE, bus=1, slot=0)]
    wait_for_rng(guest)
    assert read_hwrng(guest) == 64
    said = virtrng(lab_host, "enable", guest.name, "--rate", "65536/500", "--source", "/dev/urandom")
    assert (said.code, said.err) == (0, "")
    assert said.out.count("changed from") == 1
    assert rngs(definition(guest)) == [Rng(ALIAS, "/dev/urandom", (65536, 500), bus=0, slot=SLOT)]
    assert rngs(live(guest)) == [Rng(ALIAS, "/dev/urandom", (65536, 500), bus=1, slot=0)]
    for domain in (definition(guest), live(guest)):
        assert wish(domain) == {
            "device": "on", "source": "/dev/urandom", "bytes": "65536", "period": "500",
        }  # fmt: skip
    wait_for_rng(guest)
    assert read_hwrng(guest) == 64
    said = virtrng(lab_host, "disable", guest.name)
    assert said.out == (
        f"{guest.name}: definition and running guest: taken away\n"
        f"  it is remembered as not wanted; 'virtrng enable {guest.name}' clears that\n"
    )
    assert rngs(live(guest)) == rngs(definition(guest)) == []
    wait_for_rng(guest, "none")


def test_a_guest_that_started_with_it_changes_at_its_next_start(
    lab_host: LabHost, new_guest: NewGuest
) -> None:
    guest = new_guest()
    virtrng(lab_host, "enable", guest.name)
    lab_host.virsh("start", guest.name)
    said = virtrng(lab_host, "enable", guest.name, "--rate", "8192/1000")
    assert (said.code, said.err) == (0, "")
    assert "on the root complex, which gives none while it runs" in said.out
    assert "8192 B/1000 ms from its next start" in said.out
    assert rngs(definition(guest))[0].rate == (8192, 1000)
    assert rngs(live(guest)) == [ON_ROOT_COMPLEX]
    for command in ("enable", "disable"):
        refused = virtrng(lab_host, command, "--live", guest.name)
        assert refused.code == 3
        assert "leave out --live" in refused.err
    (entry,) = virtrng(lab_host, "disable", "--json", guest.name).document["domains"]
    assert (entry["config"], entry["live"]) == ("detached", "next-start")
    assert rngs(definition(guest)) == []
    assert rngs(live(guest)) == [ON_ROOT_COMPLEX]
    lab_host.virsh("destroy", guest.name)
    lab_host.virsh("start", guest.name)
    assert rngs(live(guest)) == []


@pytest.mark.parametrize("options", [["--rate", "1/1"], ["--source", "/dev/urandom"], []])
def test_a_second_run_changes_nothing(lab_host: LabHost, new_guest: NewGuest, options: list[str]) -> None:
    guest = new_guest(root_ports=2)
    lab_host.virsh("start", guest.name)
    assert virtrng(lab_host, "enable", guest.name, *options).code == 0
    before = definition(guest), live(guest)
    for again in ([], options, ["--config"], ["--live"]):
        said = virtrng(lab_host, "enable", guest.name, *again)
        assert (said.code, said.err) == (0, "")
        assert "has it already" in said.out
        (entry,) = virtrng(lab_host, "enable", guest.name, *again, "--json").document["domains"]
        assert entry["changed"] is False
    assert (definition(guest), live(guest)) == before


def test_only_the_half_that_was_named(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest(root_ports=2)
    lab_host.virsh("start", guest.name)
    (entry,) = virtrng(lab_host, "enable", "--config", "--json", guest.name).document["domains"]
    assert (entry["config"], entry["live"]) == ("attached", "untouched")
    assert (len(rngs(definition(guest))), len(rngs(live(guest)))) == (1, 0)
    assert virtrng(lab_host, "disable", "--forget", guest.name).code == 0
    (entry,) = virtrng(lab_host, "enable", "--live", "--json", guest.name).document["domains"]
    assert (entry["config"], entry["live"]) == ("untouched", "attached")
    assert (len(rngs(definition(guest))), len(rngs(live(guest)))) == (0, 1)
    lab_host.virsh("destroy", guest.name)
    said = virtrng(lab_host, "enable", "--live", guest.name)
    assert said.code == 3
    assert "it is not running" in said.err


def test_i440fx_takes_it_while_it_runs(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest(machine="pc")
    guest.boot()
    said = virtrng(lab_host, "enable", guest.name)
    assert said.out == (
        f"{guest.name}: definition and running guest: given a virtio-rng (/dev/random, 4096 B/1000 ms)\n"
    )
    wait_for_rng(guest)
    assert read_hwrng(guest) == 64
    # The same devices in both halves: one place in both, by one call.
    assert rngs(definition(guest)) == rngs(live(guest))


def test_i440fx_with_other_devices_while_it_runs(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest(machine="pc")
    lab_host.virsh("start", guest.name)
    hotplug_a_disk(lab_host, guest)
    said = virtrng(lab_host, "enable", guest.name)
    assert (said.code, said.err) == (0, "")
    for domain in (definition(guest), live(guest)):
        assert [(one.alias, one.rate) for one in rngs(domain)] == [(ALIAS, DEFAULT_RATE)]


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (DomainOptions(machine="pc", acpi=False), "its pci bus takes and gives no device while it runs"),
        (DomainOptions(machine="q35", root_ports=0), "no pcie-root-port is free"),
    ],
)
def test_where_nothing_can_be_plugged_in_it_comes_with_the_next_start(
    lab_host: LabHost, new_guest: NewGuest, options: DomainOptions, why: str
) -> None:
    guest = new_guest(**options)
    lab_host.virsh("start", guest.name)
    said = virtrng(lab_host, "enable", guest.name)
    assert (said.code, said.err) == (0, "")
    assert f"running guest: {why}: from its next start" in said.out
    assert rngs(live(guest)) == []
    refused = virtrng(lab_host, "enable", "--live", guest.name)
    assert refused.code == 3
    assert why in refused.err
    lab_host.virsh("destroy", guest.name)
    lab_host.virsh("start", guest.name)
    assert [one.alias for one in rngs(live(guest))] == [ALIAS]
    assert "running guest: has it already" in virtrng(lab_host, "enable", guest.name).out.replace(
        "definition and ", ""
    )


def test_a_transient_guest_gets_it_while_it_runs(
    lab_host: LabHost, image: GuestImage, new_guest: NewGuest
) -> None:
    guest = new_guest()
    lab_host.virsh("undefine", guest.name)
    lab_host.virsh("create", "/dev/stdin", stdin=domain_xml(guest.name, image=image))
    (entry,) = virtrng(lab_host, "enable", "--json", guest.name).document["domains"]
    assert (entry["changed"], entry["config"], entry["live"]) == (True, "transient", "attached")
    assert "next start" not in entry["why"]
    assert [one.alias for one in rngs(live(guest))] == [ALIAS]
    assert wish(live(guest)) == {"device": "on"}
    said = virtrng(lab_host, "enable", "--config", guest.name)
    assert said.code == 3
    assert "transient" in said.err
    lab_host.virsh("destroy", guest.name)
    lab_host.virsh("create", "/dev/stdin", stdin=domain_xml(guest.name, image=image, root_ports=0))
    said = virtrng(lab_host, "enable", guest.name)
    assert said.code == 3
    assert "no pcie-root-port is free, and it is transient" in said.err
    assert wish(live(guest)) is None


def test_a_foreign_rng_is_left_alone_and_reported(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest(extra_devices=FOREIGN)
    lab_host.virsh("start", guest.name)
    before = definition(guest), live(guest)
    said = virtrng(lab_host, "enable", guest.name)
    assert (said.code, said.err) == (0, "")
    assert (
        "already has a virtio-rng (foreign, /dev/urandom, unlimited), fed by the same host pool" in said.out
    )
    (entry,) = virtrng(lab_host, "enable", "--json", guest.name).document["domains"]
    assert (entry["changed"], entry["config"], entry["live"]) == (False, "foreign", "foreign")
    assert (definition(guest), live(guest)) == before


@pytest.mark.parametrize("machine", ["microvm", "isapc"])
def test_a_machine_without_a_bus_for_it_is_refused(
    lab_host: LabHost, new_guest: NewGuest, machine: str
) -> None:
    guest = new_guest(machine=machine)
    before = definition(guest)
    for options in ([], ["--dry-run"]):
        said = virtrng(lab_host, "enable", guest.name, *options)
        assert said.code == 3
        assert said.out == ""
        assert said.err == (
            f"virtrng: {guest.name}: its machine has no bus for a virtio device\n"
            "  give it a machine of type q35, pc or virt\n"
        )
    assert definition(guest) == before


@pytest.mark.parametrize("source", ["/dev/hwrng", "/etc/hostname", "/dev/null", "random"])
def test_a_source_that_would_kill_the_guest_is_refused(
    lab_host: LabHost, new_guest: NewGuest, source: str
) -> None:
    guest = new_guest()
    before = definition(guest)
    said = virtrng(lab_host, "enable", "--source", source, guest.name)
    assert (said.code, said.out) == (3, "")
    assert f"QEMU dies or hangs when '{source}' fails or ends" in said.err
    assert "choose /dev/random or /dev/urandom" in said.err
    assert definition(guest) == before


def test_a_missing_one_among_several_is_named_and_the_others_are_done(
    lab_host: LabHost, new_guest: NewGuest
) -> None:
    first, last = new_guest(), new_guest()
    said = virtrng(lab_host, "enable", first.name, "no-such-guest", last.name)
    assert said.code == 5
    assert said.err.startswith("virtrng: no guest is called 'no-such-guest' at qemu+unix:")
    *lines, summary = said.out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [first.name, last.name]
    assert summary == "2 enabled, 1 failed"
    assert rngs(definition(first)) == rngs(definition(last)) == [ON_ROOT_COMPLEX]
    said = virtrng(lab_host, "disable", "--json", first.name, "no-such-guest", last.name)
    assert said.code == 5
    changed = {entry["name"]: entry["changed"] for entry in said.document["domains"]}
    assert changed == {"no-such-guest": False, first.name: True, last.name: True}
    assert virtrng(lab_host, "enable", "no-such-guest").code == 1


def test_by_name_uuid_and_id(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest(root_ports=2)
    lab_host.virsh("start", guest.name)
    uuid, number = lab_host.virsh("domuuid", guest.name), lab_host.virsh("domid", guest.name)
    for name in (guest.name, uuid, uuid.replace("-", ""), uuid.upper(), number):
        said = virtrng(lab_host, "enable", "--json", name)
        assert said.code == 0
        (entry,) = said.document["domains"]
        assert list(said.document) == ["domains"]
        assert list(entry) == KEYS
        assert (entry["name"], entry["uuid"]) == (guest.name, uuid)
        assert entry["changed"] is (name == guest.name)
    assert len(rngs(definition(guest))) == len(rngs(live(guest))) == 1


def test_a_dry_run_changes_nothing_and_shows_what_enable_does(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest()
    lab_host.virsh("start", guest.name)
    before = definition(guest), live(guest)
    said = virtrng(lab_host, "enable", "--dry-run", guest.name)
    assert (said.code, said.err) == (0, "")
    assert (definition(guest), live(guest)) == before
    halves = said.out.split(f"--- {guest.name}, ")
    assert [half.partition("\n")[0] for half in halves] == ["", "definition", "running guest"]
    assert virtrng(lab_host, "enable", guest.name).code == 0
    assert added_rng(halves[1]) == first_rng(definition(guest))
    # Where it goes in a running guest is libvirt's to choose.
    assert added_rng(halves[2]) == re.sub("<address .*</address>", "", first_rng(live(guest)))
    said = virtrng(lab_host, "enable", "--dry-run", guest.name)
    assert said.out == f"{guest.name}: nothing would change\n"
    before = definition(guest), live(guest)
    said = virtrng(lab_host, "disable", "--dry-run", guest.name)
    assert said.out.count("-    <rng model") == 2
    assert (definition(guest), live(guest)) == before


def test_the_policy_of_the_configuration_is_followed(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest()
    config = lab_host.root / "enable.toml"
    config.write_text(
        '[domains]\nsource = "/dev/urandom"\n[[domains.rule]]\n'
        f'match = "{guest.name}"\nrate = {{ bytes = 512, period_ms = 250 }}\n'
    )
    assert virtrng(lab_host, "enable", guest.name, config=config).code == 0
    assert rngs(definition(guest)) == [Rng(ALIAS, "/dev/urandom", (512, 250), bus=0, slot=SLOT)]
    assert wish(definition(guest)) == {"device": "on"}
    # What was asked for this guest by hand outlives another policy; what was not, follows it.
    assert virtrng(lab_host, "enable", guest.name, "--rate", "99/1000", config=config).code == 0
    assert virtrng(lab_host, "enable", guest.name, config=NO_CONFIG).code == 0
    assert rngs(definition(guest)) == [Rng(ALIAS, "/dev/random", (99, 1000), bus=0, slot=SLOT)]
