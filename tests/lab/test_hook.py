# SPDX-License-Identifier: LGPL-2.1-or-later
"""virtrng's hook as a real libvirtd calls it."""

from collections.abc import Iterator

import pytest

from tests.lab.conftest import NewGuest
from tests.lab.guest import LabGuest
from tests.lab.hooks import Hooks, installed, recording
from tests.lab.host import LabHost
from tests.lab.images import LabError
from tests.lab.product import (
    ALIAS,
    FOREIGN,
    OURS,
    TREE,
    Rng,
    definition,
    live,
    rngs,
    virtrng,
    wait_for_more_reads,
    wait_for_rng,
)

FROM_RANDOM = 'source = "/dev/random"\nrate = { bytes = 65536, period_ms = 500 }'
FROM_URANDOM = 'source = "/dev/urandom"\nrate = { bytes = 32768, period_ms = 1000 }'
RANDOM, URANDOM = ("/dev/random", (65536, 500)), ("/dev/urandom", (32768, 1000))
START = ["prepare", "start", "started"]
END = ["stopped", "release"]
REFUSE = 'require = "refuse"'
# Another hook that, at a restore, gives the guest a title.
GIVES_TITLE = "[ $2 != restore ] || sed 's|<name>|<title>by another hook</title>&|'"


@pytest.fixture
def hooks(lab_host: LabHost) -> Iterator[Hooks]:
    """Yield the shared host's hooks, ours installed."""
    with installed(lab_host) as hooks:
        yield hooks


def ours(guest: LabGuest) -> tuple[str, tuple[int, int] | None]:
    """Return source and rate of our device in the running guest."""
    (device,) = (one for one in rngs(live(guest)) if one.alias == ALIAS)
    return device.source, device.rate


def save_and_restore(guest: LabGuest) -> None:
    """Save a guest to a file and restore it from there."""
    saved = guest.host.root / "saved"
    guest.host.virsh("save", guest.name, str(saved))
    try:
        guest.host.virsh("restore", str(saved))
    finally:
        saved.unlink()


def assert_read_on(guest: LabGuest) -> None:
    """The guest reads /dev/hwrng, and no read has failed since start_reader()."""
    wait_for_more_reads(guest)
    assert guest.reader_report().failures == 0


@pytest.mark.parametrize("config", ["", REFUSE, 'require = "warn"'])
def test_a_fresh_start_with_the_device_passes_untouched(
    hooks: Hooks, lab_host: LabHost, new_guest: NewGuest, config: str
) -> None:
    hooks.configure(config)
    guest = new_guest(extra_devices=OURS)
    lab_host.virsh("start", guest.name)
    before = ours(guest)
    assert hooks.calls(guest) == START
    assert not hooks.tainted(guest)
    # Policy is for arrivals: a definition is the owner's, and enable's.
    hooks.configure(f"{FROM_URANDOM}\n{config}")
    lab_host.virsh("destroy", guest.name)
    lab_host.virsh("start", guest.name)
    assert ours(guest) == before
    assert hooks.calls(guest) == [*END, *START]


def test_restore_and_managed_save_follow_this_hosts_policy(
    hooks: Hooks, lab_host: LabHost, new_guest: NewGuest
) -> None:
    hooks.configure(FROM_URANDOM)
    guest = new_guest()
    assert virtrng(lab_host, "enable", guest.name, config=hooks.config).code == 0
    guest.boot()
    wait_for_rng(guest)
    assert (ours(guest), hooks.tainted(guest)) == (URANDOM, False)
    guest.start_reader()
    (before,) = rngs(live(guest))
    hooks.calls(guest)
    save_and_restore(guest)  # under the policy that it has already: nothing to say
    assert (ours(guest), hooks.tainted(guest)) == (URANDOM, False)
    assert hooks.calls(guest) == [*END, "restore", *START]
    hooks.configure(FROM_RANDOM)
    save_and_restore(guest)
    assert rngs(live(guest)) == [Rng(ALIAS, *RANDOM, bus=before.bus, slot=before.slot)]
    assert hooks.tainted(guest)
    assert_read_on(guest)
    hooks.configure(FROM_URANDOM)
    lab_host.virsh("managedsave", guest.name)
    lab_host.virsh("start", guest.name)
    assert ours(guest) == URANDOM
    assert_read_on(guest)
    assert guest.console_text().count("BOOTED") == 1


def test_a_migrated_guest_follows_the_policy_of_each_host(
    hooks: Hooks, lab_host: LabHost, second_host: LabHost, new_guest: NewGuest
) -> None:
    with installed(second_host) as others:
        hooks.configure(FROM_RANDOM)
        others.configure(FROM_URANDOM)
        guest = new_guest()
        virtrng(lab_host, "enable", guest.name, config=hooks.config)
        guest.boot()
        wait_for_rng(guest)
        guest.start_reader()
        assert ours(guest) == RANDOM
        for there, here, policy in ((second_host, others, URANDOM), (lab_host, hooks, RANDOM)):
            here.calls(guest)
            guest.migrate(there)
            assert here.calls(guest) == ["migrate", *START]
            assert (ours(guest), here.tainted(guest)) == (policy, True)
            assert_read_on(guest)
        assert others.calls(guest) == END
        assert guest.console_text().count("BOOTED") == 1


def test_the_guests_own_wish_travels_with_it(
    hooks: Hooks, lab_host: LabHost, second_host: LabHost, new_guest: NewGuest
) -> None:
    with installed(second_host) as others:
        others.configure(FROM_RANDOM)
        guest = new_guest()
        virtrng(lab_host, "enable", guest.name, "--source", "/dev/urandom", "--rate", "777/1000")
        lab_host.virsh("start", guest.name)
        guest.migrate(second_host)
        assert (ours(guest), others.tainted(guest)) == (("/dev/urandom", (777, 1000)), False)


def test_a_foreign_device_is_left_as_it_is(hooks: Hooks, lab_host: LabHost, new_guest: NewGuest) -> None:
    both = new_guest(extra_devices=FOREIGN + OURS, root_ports=3)
    alone = new_guest(extra_devices=FOREIGN)
    hooks.configure(FROM_RANDOM)
    for guest in (both, alone):
        lab_host.virsh("start", guest.name)
        before = [one for one in rngs(live(guest)) if one.alias != ALIAS]
        save_and_restore(guest)
        assert [one for one in rngs(live(guest)) if one.alias != ALIAS] == before
    assert ours(both) == RANDOM
    assert [hooks.tainted(guest) for guest in (both, alone)] == [True, False]


def test_a_fresh_start_without_the_device_is_refused_with_the_remedy(
    hooks: Hooks, lab_host: LabHost, new_guest: NewGuest
) -> None:
    hooks.configure(REFUSE)
    guest = new_guest()
    with pytest.raises(LabError) as refused:
        lab_host.virsh("start", guest.name)
    assert (
        f"virtrng: {guest.name} has no virtio-rng, and this host's policy requires one: "
        f"run 'virtrng enable {guest.name}' and start it again"
    ) in str(refused.value)
    assert guest.state() == "shut off"
    assert hooks.calls(guest) == ["prepare", *END]
    for text in ('require = "warn"', '# require = "refuse"', ""):
        hooks.configure(text)
        lab_host.virsh("start", guest.name)
        lab_host.virsh("destroy", guest.name)
    hooks.configure(f'{REFUSE}\n[[domains.rule]]\nmatch = "{guest.name}"\nrequire = "off"')
    lab_host.virsh("start", guest.name)
    lab_host.virsh("destroy", guest.name)
    hooks.configure(REFUSE)
    assert virtrng(lab_host, "enable", guest.name).code == 0
    lab_host.virsh("start", guest.name)
    assert [one.alias for one in rngs(live(guest))] == [ALIAS]
    foreign = new_guest(extra_devices=FOREIGN)
    lab_host.virsh("start", foreign.name)


def test_what_arrives_without_the_device_passes_and_its_next_fresh_start_is_refused(
    hooks: Hooks, lab_host: LabHost, second_host: LabHost, new_guest: NewGuest
) -> None:
    guest = new_guest()
    lab_host.virsh("start", guest.name)
    hooks.configure(REFUSE)
    save_and_restore(guest)
    lab_host.virsh("managedsave", guest.name)
    lab_host.virsh("start", guest.name)
    guest.migrate(second_host)
    guest.migrate(lab_host)
    lab_host.restart_daemon()
    assert guest.state() == "running"
    assert not hooks.tainted(guest)
    seen = hooks.calls(guest)
    assert seen.count("restore") == 2
    assert seen.count("migrate") == seen.count("reconnect") == 1
    assert hooks.marks() == []  # each was for one start
    lab_host.virsh("destroy", guest.name)
    with pytest.raises(LabError, match="this host's policy requires one"):
        lab_host.virsh("start", guest.name)


def test_an_arrival_that_failed_leaves_no_way_around_the_policy(
    hooks: Hooks, lab_host: LabHost, new_guest: NewGuest
) -> None:
    guest = new_guest()
    lab_host.virsh("start", guest.name)
    hooks.configure(REFUSE)
    uuid = lab_host.virsh("domuuid", guest.name)
    # What another hook prints is not accepted, so that the restore ends before its prepare.
    hooks.put("zz-breaks", "[ $2 != restore ] || echo '<domain/>'")
    saved = lab_host.root / "saved"
    lab_host.virsh("save", guest.name, str(saved))
    with pytest.raises(LabError, match="Failed to restore"):
        lab_host.virsh("restore", str(saved))
    assert hooks.marks() == [uuid]
    mark = lab_host.outside("/run/virtrng-hook") / uuid
    mark.write_text("0.000\n")  # as if that had been long ago
    with pytest.raises(LabError, match="this host's policy requires one"):
        lab_host.virsh("start", guest.name)
    assert hooks.marks() == []


def test_libvirtd_restarts_under_a_guest_that_policy_would_refuse(
    hooks: Hooks, lab_host: LabHost, new_guest: NewGuest
) -> None:
    guest, with_device = new_guest(), new_guest(extra_devices=OURS)
    for one in (guest, with_device):
        lab_host.virsh("start", one.name)
    numbers = [lab_host.virsh("domid", one.name) for one in (guest, with_device)]
    hooks.configure(f"{FROM_URANDOM}\n{REFUSE}")
    lab_host.restart_daemon()
    assert [lab_host.virsh("domid", one.name) for one in (guest, with_device)] == numbers
    assert [one.state() for one in (guest, with_device)] == ["running", "running"]
    assert "reconnect" in hooks.calls(guest)


def test_other_hooks_before_and_after_ours_are_chained(
    hooks: Hooks, lab_host: LabHost, new_guest: NewGuest
) -> None:
    hooks.configure(FROM_RANDOM)
    guest = new_guest(extra_devices=OURS)
    lab_host.virsh("start", guest.name)
    seen = lab_host.outside("/run/virtrng-lab") / "seen"
    after = hooks.put("zz-after", "[ $2 != restore ] || cat >/run/virtrng-lab/seen")
    before = hooks.put("aa-before", GIVES_TITLE)
    save_and_restore(guest)
    for text in (live(guest), seen.read_text()):
        assert "<title>by another hook</title>" in text
        assert (rngs(text)[0].source, rngs(text)[0].rate) == RANDOM
    # Ours has nothing to say now, and keeps what the one before it said.
    before.write_text(before.read_text().replace("by another", "by yet another"))
    save_and_restore(guest)
    assert "<title>by yet another hook</title><" not in live(guest)
    assert ours(guest) == RANDOM
    before.unlink()
    after.unlink()
    hooks.put("zz-after", GIVES_TITLE)
    hooks.configure(FROM_URANDOM)
    save_and_restore(guest)
    assert ours(guest) == URANDOM
    assert "by another hook" in live(guest)
    seen.unlink()


def test_the_first_hook_is_called_once_libvirtd_has_reloaded(lab_host: LabHost, new_guest: NewGuest) -> None:
    with recording(lab_host) as hooks:
        hooks.directory.rmdir()
        (lab_host.hooks_dir / "qemu").unlink()
        lab_host.reload_daemon()
        hooks.configure(REFUSE)
        said = hooks.command("install")
        assert said.out.startswith(f"{hooks.ours}: installed\n")
        assert "must reload" in said.out
        guest = new_guest()
        lab_host.virsh("start", guest.name)
        lab_host.virsh("destroy", guest.name)
        lab_host.reload_daemon()
        with pytest.raises(LabError, match="this host's policy requires one"):
            lab_host.virsh("start", guest.name)
        assert hooks.command("uninstall").out == f"{hooks.ours}: removed\n"
        lab_host.virsh("start", guest.name)


def test_install_status_uninstall(lab_host: LabHost) -> None:
    with recording(lab_host) as hooks:
        assert hooks.command("status").out.splitlines()[0] == f"{hooks.ours}: absent"
        said = hooks.command("install", "--dry-run")
        assert said.out == f"{hooks.ours}: would be installed\n"
        assert not hooks.ours.exists()
        said = hooks.command("install", "--json")
        assert said.document == {
            "hook": str(hooks.ours), "changed": True, "reload_needed": False, "reloaded": [],
        }  # fmt: skip
        assert hooks.command("install").out == f"{hooks.ours}: installed already\n"
        assert not hooks.ours.is_symlink()
        assert f"\npackage={TREE}\n" in hooks.ours.read_text().replace("'", "")
        assert f"{lab_host.hooks_dir / 'qemu'}: another qemu hook" in hooks.command("status").out
        hooks.ours.write_text(hooks.ours.read_text() + "# of an older version\n")
        document = hooks.command("status", "--json").document
        assert (document["state"], document["others"]) == ("outdated", [str(lab_host.hooks_dir / "qemu")])
        assert hooks.command("install").out == f"{hooks.ours}: installed\n"
        assert hooks.command("status").out.splitlines()[0] == f"{hooks.ours}: installed"
        # No file of ours beside it: libvirt would run that too.
        assert [path.name for path in hooks.directory.iterdir()] == ["virtrng"]
        for expected in ("removed", "is not there"):
            assert hooks.command("uninstall").out == f"{hooks.ours}: {expected}\n"
        hooks.put("virtrng", "exit 0")
        said = hooks.command("install")
        assert said.code == 1
        assert "was not written by virtrng" in said.err


def test_a_guest_that_ends_by_itself_ends(hooks: Hooks, lab_host: LabHost, new_guest: NewGuest) -> None:
    hooks.configure(REFUSE)
    guest = new_guest(extra_devices=OURS)
    guest.boot()
    lab_host.virsh("shutdown", guest.name)
    guest.wait_state("shut off")
    assert hooks.calls(guest) == [*START, *END]
    assert [one.alias for one in rngs(definition(guest))] == [ALIAS]
