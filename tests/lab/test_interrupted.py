# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng enable` when something comes between: another one, a signal, libvirtd, the user's rights."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import libvirt
import pytest

from tests.lab.conftest import NewGuest
from tests.lab.guest import LabGuest
from tests.lab.host import LabHost
from tests.lab.product import (
    ALIAS,
    TREE,
    canonical,
    command,
    definition,
    live,
    rngs,
    virtrng,
    wish,
)
from virtrng.config import DomainSettings, Rate
from virtrng.domain import reconcile
from virtrng.domain.hypervisor import Guest, Hypervisor
from virtrng.domain.policy import Request
from virtrng.domain.reconcile import Outcome
from virtrng.errors import (
    DomainBusy,
    HypervisorDenied,
    HypervisorFault,
    NoHypervisor,
    NoSuchDomain,
    NotAttached,
)

SETTINGS = DomainSettings()
NOTHING_ASKED = Request()
# Runs virtrng, and dies where the device would be attached.
DYING = """\
import os, signal, sys
from virtrng import cli
from virtrng.domain.hypervisor import Guest
Guest.attach = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(cli.main(sys.argv[1:]))
"""
# Runs virtrng, and does what Ctrl-C does where the third device would be attached.
INTERRUPTED = """\
import itertools, os, signal, sys
from virtrng import cli
from virtrng.domain.hypervisor import Guest
attach, seen = Guest.attach, itertools.count(1)
def interrupted(*arguments, **options):
    if next(seen) == 3:
        os.kill(os.getpid(), signal.SIGINT)
    attach(*arguments, **options)
Guest.attach = interrupted
sys.exit(cli.main(sys.argv[1:]))
"""
# Runs virtrng as nobody. All that it needs is imported before: the tree may be root's alone.
AS_NOBODY = """\
import os, sys
from virtrng import cli
from virtrng.cli import enable, status
from virtrng.domain import hypervisor
os.setgroups([]), os.setresgid(65534, 65534, 65534), os.setresuid(65534, 65534, 65534)
sys.exit(cli.main(sys.argv[1:]))
"""


def run_python(code: str, host: LabHost, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", code, *command(host, *arguments)[3:]]
    return subprocess.run(line, cwd=TREE, capture_output=True, text=True, timeout=60)


def enable(host: LabHost, guest: LabGuest, request: Request = NOTHING_ASKED) -> Outcome:
    """Enable within this process, over a connection of its own."""
    with Hypervisor(host.uri) as hypervisor:
        return reconcile.enable(hypervisor.guest(guest.name), SETTINGS, request)


def assert_has_one(guest: LabGuest) -> None:
    """Both halves have one device of ours, and nothing else has."""
    for domain in (definition(guest), live(guest)):
        assert [one.alias for one in rngs(domain)] == [ALIAS]
        assert wish(domain) == {"device": "on"}


def test_two_at_once_give_one_device(
    lab_host: LabHost, new_guest: NewGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = new_guest(root_ports=3)
    lab_host.virsh("start", guest.name)
    attach, together = Guest.attach, threading.Barrier(2, timeout=30)

    def attach_together(self: Guest, device: str, *, live: bool) -> None:
        together.wait()  # both have seen that it is missing
        attach(self, device, live=live)

    monkeypatch.setattr(Guest, "attach", attach_together)
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(lambda _: enable(lab_host, guest), range(2)))
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert_has_one(guest)


def test_two_processes_at_once_give_one_device(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest(root_ports=3)
    lab_host.virsh("start", guest.name)
    line, pipe = command(lab_host, "enable", guest.name), subprocess.PIPE
    both = [subprocess.Popen(line, cwd=TREE, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [err for _, err in said] == ["", ""]
    assert_has_one(guest)


@pytest.mark.parametrize("options", [[], ["--rate", "777/1000"]])
def test_killed_between_wish_and_device_the_next_run_completes_it(
    lab_host: LabHost, new_guest: NewGuest, options: list[str]
) -> None:
    guest = new_guest()
    lab_host.virsh("start", guest.name)
    assert run_python(DYING, lab_host, "enable", *options, guest.name).returncode == -9
    assert wish(definition(guest)) == wish(live(guest))
    assert wish(definition(guest)) is not None
    assert rngs(definition(guest)) == rngs(live(guest)) == []
    said = virtrng(lab_host, "enable", guest.name)
    assert (said.code, said.err) == (0, "")
    for domain in (definition(guest), live(guest)):
        assert [one.rate for one in rngs(domain)] == [(777, 1000) if options else (4096, 1000)]


def test_killed_between_two_devices_the_next_run_completes_it(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest()
    virtrng(lab_host, "enable", guest.name)
    (before,) = rngs(definition(guest))
    assert run_python(DYING, lab_host, "enable", "--rate", "777/1000", guest.name).returncode == -9
    assert rngs(definition(guest)) == []
    assert virtrng(lab_host, "enable", guest.name).code == 0
    (after,) = rngs(definition(guest))
    assert (after.rate, after.bus, after.slot) == ((777, 1000), before.bus, before.slot)


def test_ctrl_c_among_many_leaves_each_whole_or_untouched(lab_host: LabHost, new_guest: NewGuest) -> None:
    guests = {guest.name: guest for guest in [new_guest() for _ in range(20)]}
    said = run_python(INTERRUPTED, lab_host, "enable", *guests)
    assert said.returncode == 130
    assert said.stderr == "virtrng: what is under way is finished first; Ctrl-C again does not wait\n"
    *lines, summary = said.stdout.splitlines()
    told = [line.split(":")[0] for line in lines]
    assert told == [*guests][: len(told)]
    assert len(told) >= 3
    assert summary.startswith(f"{len(told)} enabled")
    for name, guest in guests.items():
        found = (len(rngs(definition(guest))), wish(definition(guest)))
        assert found == ((1, {"device": "on"}) if name in told else (0, None))
    assert virtrng(lab_host, "enable", *guests).code == 0


def test_a_device_that_cannot_be_replaced_is_put_back(
    lab_host: LabHost, new_guest: NewGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = new_guest()
    virtrng(lab_host, "enable", guest.name)
    before = definition(guest)
    attach = Guest.attach

    def refuse_the_new(self: Guest, device: str, *, live: bool) -> None:
        # As long as libvirt has a say: its RelaxNG knows no such model.
        attach(self, device.replace("virtio", "none") if "777" in device else device, live=live)

    monkeypatch.setattr(Guest, "attach", refuse_the_new)
    with pytest.raises(HypervisorFault, match="libvirt failed to attach the device to"):
        enable(lab_host, guest, Request(rate=Rate(777, 1000)))
    assert canonical(definition(guest), with_wish=False) == canonical(before, with_wish=False)


def test_a_failure_of_the_second_half_tells_what_became_of_the_first(
    lab_host: LabHost, new_guest: NewGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = new_guest()
    lab_host.virsh("start", guest.name)
    attach = Guest.attach

    def refuse_live(self: Guest, device: str, *, live: bool) -> None:
        attach(self, device.replace("virtio", "none") if live else device, live=live)

    monkeypatch.setattr(Guest, "attach", refuse_live)
    outcome = enable(lab_host, guest)
    assert (outcome.changed, outcome.config, outcome.live) == (True, "attached", "failed")
    assert "definition: given a virtio-rng" in outcome.why
    assert "running guest: libvirt failed to attach the device to " in outcome.why
    monkeypatch.undo()
    assert virtrng(lab_host, "enable", guest.name).code == 0
    assert_has_one(guest)


def test_a_libvirtd_that_is_stopped_is_named_with_the_remedy(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest()
    lab_host.stop_daemon()
    try:
        said = virtrng(lab_host, "enable", guest.name)
        shown = virtrng(lab_host, "status")
    finally:
        lab_host.start_daemon()
    assert (said.code, said.out) == (1, "")
    sentence, remedy = said.err.splitlines()
    assert sentence.startswith(f"virtrng: no libvirt answers at {lab_host.uri}: ")
    assert remedy == "  start it ('systemctl start libvirtd'), or name another with -c URI"
    assert shown.code == 0
    assert "guests  not known: no libvirt answers at" in shown.out


def test_a_libvirtd_that_restarts_between_two_calls(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest()
    lab_host.virsh("start", guest.name)
    with Hypervisor(lab_host.uri) as hypervisor:
        known = hypervisor.guest(guest.name)
        lab_host.restart_daemon()
        with pytest.raises(NoHypervisor):
            reconcile.enable(known, SETTINGS, NOTHING_ASKED)
        with pytest.raises(NoHypervisor):
            hypervisor.guest(guest.name)
        with pytest.raises(NoHypervisor):
            hypervisor.guests()
    assert virtrng(lab_host, "enable", guest.name).code == 0
    lab_host.restart_daemon()
    assert "has it already" in virtrng(lab_host, "enable", guest.name).out
    assert_has_one(guest)


def test_a_libvirtd_that_stops_before_the_device_is_attached(
    lab_host: LabHost, new_guest: NewGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = new_guest()
    attach = Guest.attach

    def stopped_first(self: Guest, device: str, *, live: bool) -> None:
        lab_host.restart_daemon()
        attach(self, device, live=live)

    monkeypatch.setattr(Guest, "attach", stopped_first)
    with pytest.raises(NoHypervisor) as caught:
        enable(lab_host, guest)
    assert caught.value.uri == lab_host.uri
    monkeypatch.undo()
    assert rngs(definition(guest)) == []
    assert virtrng(lab_host, "enable", guest.name).code == 0
    assert [one.alias for one in rngs(definition(guest))] == [ALIAS]


def test_a_guest_that_is_undefined_meanwhile(
    lab_host: LabHost, new_guest: NewGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = new_guest()
    attach = Guest.attach

    def undefined_first(self: Guest, device: str, *, live: bool) -> None:
        lab_host.virsh("undefine", guest.name)
        attach(self, device, live=live)

    monkeypatch.setattr(Guest, "attach", undefined_first)
    with pytest.raises(NoSuchDomain) as caught:
        enable(lab_host, guest)
    assert str(caught.value) == f"no guest is called '{guest.name}' at {lab_host.uri}"


def test_a_device_that_is_not_there_although_libvirt_said_so(
    lab_host: LabHost, new_guest: NewGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = new_guest()
    monkeypatch.setattr(Guest, "attach", lambda *_, **__: None)
    with pytest.raises(NotAttached, match="the device is not in its definition, although libvirt reported"):
        enable(lab_host, guest)


def test_a_guest_that_is_busy_for_longer_than_libvirt_waits(
    lab_host: LabHost, new_guest: NewGuest, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = new_guest()

    def busy(*_: object) -> None:  # libvirt waits for 30 s before it says so
        error = libvirt.libvirtError("cannot acquire state change lock")
        error.err = (libvirt.VIR_ERR_OPERATION_TIMEOUT, libvirt.VIR_FROM_QEMU, "held by a save")
        raise error

    monkeypatch.setattr(libvirt.virDomain, "attachDeviceFlags", busy)
    with pytest.raises(DomainBusy, match=f"{guest.name} is busy: held by a save"):
        enable(lab_host, guest)


def test_a_user_without_rights_is_told_so(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest()
    said = run_python(AS_NOBODY, lab_host, "enable", guest.name)
    assert (said.returncode, said.stdout) == (1, "")
    sentence, remedy = said.stderr.splitlines()
    assert sentence.startswith(f"virtrng: libvirt at {lab_host.uri} refuses this user: ")
    assert sentence.endswith("Permission denied")
    assert remedy == "  run as root, or join the group 'libvirt'"
    assert "guests  not known: libvirt at" in run_python(AS_NOBODY, lab_host, "status").stdout


@pytest.mark.parametrize("code", [libvirt.VIR_ERR_AUTH_UNAVAILABLE, libvirt.VIR_ERR_ACCESS_DENIED])
def test_a_user_whom_polkit_refuses_is_told_so(
    lab_host: LabHost, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(_: str) -> None:  # the lab has no polkit
        error = libvirt.libvirtError("refused")
        error.err = (code, libvirt.VIR_FROM_RPC, "authentication unavailable: no polkit agent available")
        raise error

    monkeypatch.setattr(libvirt, "open", refused)
    with pytest.raises(HypervisorDenied, match="refuses this user: authentication unavailable"):
        Hypervisor(lab_host.uri)
