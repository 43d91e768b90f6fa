# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does the lab itself do what its users count on?"""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import images
from tests.lab.conftest import NewGuest
from tests.lab.guest import LabGuest
from tests.lab.host import NEEDED, LabHost, traces, wait_for
from tests.lab.images import GuestImage, LabError
from tests.lab.product import TREE, rng_current, wait_for_more_reads

RNG_XML = """\
<rng model='virtio'>
  <rate bytes='65536' period='1000'/>
  <backend model='random'>/dev/random</backend>
</rng>"""
# Guest time; 0.02 s without, 0.3 s with a migration on a machine with 2 cores.
GAP_MAX_S = 5.0

HOLDER = """\
import sys, time
from tests.lab.guest import LabGuest
from tests.lab.host import LabHost
from tests.lab.images import guest_image

with LabHost("doomed") as host:
    LabGuest.define(host, "doomed", image=guest_image()).boot()
    print("up", flush=True)
    sys.stdin.read()
"""


def test_a_guest_without_rng_has_none_and_its_reads_fail(new_guest: NewGuest) -> None:
    guest = new_guest()
    guest.boot()
    assert rng_current(guest) == "none"
    read = guest.try_run("dd if=/dev/hwrng of=/dev/null bs=1 count=1")
    assert read.status == 1
    assert "No such device" in read.output
    assert int(guest.run("cat /proc/sys/kernel/random/entropy_avail")) >= 0


@pytest.mark.parametrize("machine", ["q35", "pc"])
def test_an_rng_plugged_into_a_running_guest_is_read_at_once(
    lab_host: LabHost, new_guest: NewGuest, machine: str
) -> None:
    guest = new_guest(machine=machine)
    guest.boot()
    lab_host.virsh("attach-device", guest.name, "/dev/stdin", "--live", stdin=RNG_XML)
    wait_for(lambda: rng_current(guest) == "virtio_rng.0", "the guest to use its rng", timeout_s=10)
    assert guest.run("dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c") == "64"
    wait_for(lambda: guest.crng_ready_s() is not None, "the guest's CRNG to be ready", timeout_s=30)


def test_commands_give_output_and_status_whatever_they_print(new_guest: NewGuest) -> None:
    guest = new_guest()
    assert guest.boot() > 0
    assert guest.run("seq 1 3") == "1\n2\n3"
    assert guest.run("printf 'no newline at the end'") == "no newline at the end"
    assert guest.run("true") == ""
    assert guest.run("seq 1 20000").splitlines() == [str(number) for number in range(1, 20001)]
    assert guest.try_run("cat <<'E'\n$(not run) \"'\nE\nexit 7").status == 7
    assert guest.try_run("echo error >&2; false").output == "error"
    with pytest.raises(LabError, match="still running after 1 s"):
        guest.run("sleep 1000", timeout_s=1)
    assert guest.run("echo and on") == "and on"
    with pytest.raises(LabError, match="too long"):
        guest.run("x" * 4096)


def test_a_guest_has_the_extra_files_of_its_image(lab_host: LabHost, image: GuestImage) -> None:
    with_file = images.guest_image({"usr/lib/extra": images.GUEST_INIT})
    assert with_file.kernel == image.kernel
    guest = LabGuest.define(lab_host, "extra", image=with_file)
    try:
        guest.boot()
        assert guest.run("wc -c </usr/lib/extra") == str(images.GUEST_INIT.stat().st_size)
    finally:
        guest.remove()


def test_a_command_run_inside_a_host_sees_what_its_libvirtd_sees(lab_host: LabHost) -> None:
    command = lab_host.inside("sh", "-c", "hostname; ls /etc/libvirt /run; tr '\\0' ' ' </proc/1/cmdline")
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.split()[0] == lab_host.hostname
    assert {"qemu.conf", "hooks", "libvirt"} <= set(output.split())
    assert "host_init.py" in output


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NEEDED, "/usr/bin/no-such-program", "no-such-package")
    with pytest.raises(LabError, match="apt-get install no-such-package"):
        LabHost().start()


def test_libvirtd_restarts_under_a_running_guest(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest(extra_devices=RNG_XML)
    guest.boot()
    guest.start_reader()
    domain_id = lab_host.virsh("domid", guest.name)
    lab_host.restart_daemon()
    assert guest.state() == "running"
    assert lab_host.virsh("domid", guest.name) == domain_id
    wait_for_more_reads(guest)
    report = guest.stop_reader()
    assert report.failures == 0
    assert report.longest_gap_s < GAP_MAX_S


def test_a_reload_has_libvirtd_find_a_new_hook(lab_host: LabHost, new_guest: NewGuest) -> None:
    calls = lab_host.root / "run/hook-calls"
    hook = lab_host.hooks_dir / "qemu"
    hook.write_text("#!/bin/sh\necho $* >>/run/hook-calls\n")
    hook.chmod(0o755)
    try:
        lab_host.reload_daemon()
        guest = new_guest()
        guest.boot()
        assert calls.read_text().splitlines()[0] == f"{guest.name} prepare begin -"
    finally:
        hook.unlink()
        lab_host.reload_daemon()
    assert list(lab_host.hooks_dir.iterdir()) == []


def test_a_guest_goes_on_after_save_and_restore(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest(extra_devices=RNG_XML)
    guest.boot()
    guest.start_reader()
    saved = lab_host.root / "saved"
    lab_host.virsh("save", guest.name, str(saved))
    assert guest.state() == "shut off"
    lab_host.virsh("restore", str(saved))
    saved.unlink()
    wait_for_more_reads(guest)
    report = guest.stop_reader()
    assert report.failures == 0
    assert report.longest_gap_s < GAP_MAX_S


def test_a_running_guest_migrates_there_and_back(
    lab_host: LabHost, second_host: LabHost, new_guest: NewGuest
) -> None:
    guest = new_guest(extra_devices=RNG_XML)
    guest.boot()
    guest.start_reader()
    for destination in (second_host, lab_host):
        guest.migrate(destination)
        assert guest.state() == "running"
        wait_for_more_reads(guest)
    report = guest.stop_reader()
    assert report.failures == 0
    assert report.longest_gap_s < GAP_MAX_S
    assert guest.console_text().count("BOOTED") == 1


def test_a_guest_powers_off_when_asked_and_boots_again(lab_host: LabHost, new_guest: NewGuest) -> None:
    guest = new_guest()
    guest.boot()
    lab_host.virsh("shutdown", guest.name)
    guest.wait_state("shut off")
    guest.boot()
    mark = guest.console_mark()
    lab_host.virsh("reset", guest.name)
    guest.wait_booted(mark)
    assert guest.run("echo back") == "back"


def test_a_guest_that_gives_up_is_reported_at_once(new_guest: NewGuest) -> None:
    guest = new_guest(extra_cmdline="rdinit=/none root=none")
    with pytest.raises(LabError, match="gave up booting"):
        guest.boot()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_process_that_holds_a_host(image: GuestImage, number: signal.Signals) -> None:
    command = [sys.executable, "-c", HOLDER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=TREE, stdin=pipe, stdout=pipe, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "up\n"
            seen = " ".join(traces(holder.pid))
            assert "libvirtd" in seen
            assert "qemu-system" in seen
        finally:
            holder.send_signal(number)
            holder.communicate(timeout=30)
    wait_for(lambda: not traces(holder.pid), "all of the dead process's host to be gone", timeout_s=10)


def test_a_warm_cache_is_used_as_it_is(image: GuestImage, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_nothing(*command: str, **_: object) -> str:
        raise AssertionError(f"ran {command}")

    monkeypatch.setattr(images, "_run", run_nothing)
    before = image.kernel.stat()
    assert images.guest_image() == image
    assert image.kernel.stat().st_ino == before.st_ino


def test_an_interrupted_build_leaves_nothing_that_looks_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIRTRNG_CACHE", str(tmp_path))

    def interrupted(work: Path) -> None:
        (work / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        images._once("thing", interrupted)
    (tmp_path / "lab" / ".partial-of-a-killed-run").mkdir()
    made = images._once("thing", lambda work: (work / "whole").touch())
    assert [path.name for path in made.iterdir()] == ["whole"]
    assert [path.name for path in made.parent.iterdir() if path.name != ".lock"] == ["thing"]


def test_an_entry_that_asks_for_another_while_it_is_made_does_not_wait_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIRTRNG_CACHE", str(tmp_path))

    def nested(work: Path) -> None:
        images._once("inner", lambda inner: None)

    with pytest.raises(images.LabError, match="ask for that before"):
        images._once("outer", nested)
    images._once("inner", lambda inner: None)
