# SPDX-License-Identifier: LGPL-2.1-or-later
"""Do guests get their device by themselves, from the watcher in its sandbox, under real systemd and libvirtd?

That the sandbox is nowhere in the way is asked after each test (conftest.py).
"""

from collections.abc import Iterator

import pytest

from tests.host import guests, steps
from tests.host.guests import ALIAS, CONFIG, WATCH
from tests.host.machine import HOST_UUID, BootedHost

# libnuma, which comes with libvirt's library, tries at its start whether the kernel has MPOL_PREFERRED_MANY.
# To be refused that is an answer to it like another; here it would end the process.
DROP_IN = f"{steps.DROP_IN}SystemCallFilter=set_mempolicy\n"
SCRAPE = "python3 -c 'import urllib.request as r; print(r.urlopen(\"http://127.0.0.1:9878/metrics\").read().decode())'"
OLD = "old"
# As an administrator has it who wants no polkit.
SOCKET_OF_THE_GROUP = "[Socket]\nSocketMode=0660\nSocketGroup=libvirt\n"
NO_POLKIT = 'auth_unix_rw = "none"\n'
LIBVIRTD_CONF = "/etc/libvirt/libvirtd.conf"
SOCKET_DROP_IN = "/run/systemd/system/libvirtd.socket.d/zz-tests.conf"


@pytest.fixture(scope="module")
def installed(host: BootedHost) -> Iterator[BootedHost]:
    """Give the host with libvirtd, a guest that was there before, and then the watcher."""
    host.run("systemctl stop virtrng-feeder && systemctl start libvirtd")  # there are but two processors
    guests.define(host, OLD)
    steps.write(host, f"/etc/systemd/system/{WATCH}.service.d/tests.conf", DROP_IN)
    files, start = steps.readme_commands("### New guests, unasked")
    host.run(f"set -e\n{files}")
    host.run(f"systemctl enable --no-reload {WATCH}-metrics.socket")
    host.run(start)
    yield host
    host.run(f"systemctl stop {WATCH}")
    guests.stop_libvirtd(host)


@pytest.fixture
def watched(installed: BootedHost) -> BootedHost:
    """Give the host with the watcher at work, and not yet started again by anything."""
    installed.run(f"systemctl reset-failed {WATCH}; systemctl start libvirtd {WATCH}")
    guests.wait_until_it_watches(installed)
    return installed


def restarts(host: BootedHost) -> int:
    """Return how often systemd has started the watcher again."""
    (count,) = steps.shown(host, WATCH, "NRestarts")
    return int(count)


def test_a_guest_that_is_defined_has_its_device_unasked(watched: BootedHost) -> None:
    guests.define(watched, "new")
    guests.wait_for_device(watched, "new")
    found = guests.status(watched, "new")
    assert [device["ours"] for device in found["definition"]] == [True]
    assert found["differs"] == []


def test_a_guest_that_was_there_before_is_left_alone_and_status_says_so(watched: BootedHost) -> None:
    now = guests.wait_for_watcher(watched, lambda now: now["guests"].get("before"), "the old guest")
    assert now["guests"]["before"] == 1
    assert guests.aliases(watched, OLD) == []
    found = guests.status(watched, OLD)
    assert (found["policy"], found["definition"]) == ("left alone (here before the watcher)", [])


def test_a_guest_without_a_definition_has_it_while_its_processor_stands_still(watched: BootedHost) -> None:
    guests.create_paused(watched, "passing")
    guests.wait_for_device(watched, "passing", "")
    assert watched.run("virsh domstate passing") == "paused"
    watched.run("virsh destroy passing")


def test_it_goes_on_when_libvirtd_is_restarted(watched: BootedHost) -> None:
    before = restarts(watched), guests.main_pid(watched)
    watched.run("systemctl restart libvirtd")
    guests.define(watched, "after-restart")
    guests.wait_for_device(watched, "after-restart")
    assert (restarts(watched), guests.main_pid(watched)) == before


def test_it_waits_for_a_libvirtd_that_was_stopped(watched: BootedHost) -> None:
    before = restarts(watched), guests.main_pid(watched)
    guests.stop_libvirtd(watched)
    guests.wait_for_watcher(watched, lambda now: now["waiting"], "the watcher to miss libvirtd")
    watched.run("systemctl start libvirtd")
    guests.define(watched, "after-stop")
    guests.wait_for_device(watched, "after-stop")
    assert (restarts(watched), guests.main_pid(watched)) == before


def test_it_starts_before_libvirtd_and_waits_for_it(watched: BootedHost) -> None:
    watched.run(f"systemctl stop {WATCH}")
    guests.stop_libvirtd(watched)
    watched.run(f"systemctl start {WATCH}")
    assert steps.shown(watched, WATCH, "ActiveState", "Type") == ["active", "notify"]
    assert steps.shown(watched, "libvirtd", "ActiveState") == ["inactive"]
    watched.run("systemctl start libvirtd")
    guests.define(watched, "after-both")
    guests.wait_for_device(watched, "after-both")
    assert restarts(watched) == 0


def test_it_comes_through_a_socket_of_group_libvirt(watched: BootedHost) -> None:
    watched.run(f"systemctl stop {WATCH}")  # systemd makes the socket before it gives it to the group
    watched.run(f"cp -a {LIBVIRTD_CONF} /root")
    steps.write(watched, SOCKET_DROP_IN, SOCKET_OF_THE_GROUP)
    try:
        guests.stop_libvirtd(watched)
        watched.run(f"echo '{NO_POLKIT}' >>{LIBVIRTD_CONF} && systemctl daemon-reload")
        watched.run("systemctl start libvirtd")
        assert watched.run("stat -c '%G %a' /run/libvirt/libvirt-sock") == "libvirt 660"
        assert watched.try_run(f"{steps.AS_NOBODY} virsh -c qemu:///system version").status != 0
        watched.run(f"systemctl start {WATCH}")
        guests.define(watched, "by-the-group")
        guests.wait_for_device(watched, "by-the-group")
    finally:
        watched.run(f"systemctl stop {WATCH}")
        watched.run(f"mv /root/libvirtd.conf {LIBVIRTD_CONF}; rm {SOCKET_DROP_IN}; systemctl daemon-reload")
        guests.stop_libvirtd(watched)
        watched.run("systemctl start libvirtd")


def test_it_is_a_user_in_group_libvirt_without_any_capability(watched: BootedHost) -> None:
    lines = watched.run(f"cat /proc/{guests.main_pid(watched)}/status").splitlines()
    held = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert held["Uid"].split() == [watched.run(f"id -u {WATCH}")] * 4 != ["0"] * 4
    assert {held[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {f"{0:016x}"}
    assert (held["NoNewPrivs"], held["Seccomp"]) == ("1", "2")
    group = watched.run("getent group libvirt").split(":")[2]
    assert set(held["Groups"].split()) - {watched.run(f"id -g {WATCH}")} == {group}


def test_its_files_are_its_own_and_everybody_reads_them(watched: BootedHost) -> None:
    places = "/run/virtrng-watch /run/virtrng-watch/* /var/lib/virtrng-watch /var/lib/virtrng-watch/*"
    assert watched.run(f"stat -c '%n %U %G %a' {places}").splitlines() == [
        f"/run/virtrng-watch {WATCH} {WATCH} 755",
        f"/run/virtrng-watch/watch.json {WATCH} {WATCH} 644",
        f"/run/virtrng-watch/watch.lock {WATCH} {WATCH} 600",
        f"/var/lib/virtrng-watch {WATCH} {WATCH} 755",
        f"/var/lib/virtrng-watch/{HOST_UUID}.json {WATCH} {WATCH} 644",
    ]
    assert guests.watch_json(watched)["waiting"] is None


def test_metrics_come_over_a_socket_that_it_was_handed(watched: BootedHost) -> None:
    assert steps.shown(watched, WATCH, "RestrictAddressFamilies") == ["AF_UNIX"]
    assert "virtrng_watch_connected 1.0" in watched.run(SCRAPE).splitlines()


def test_reloaded_it_takes_a_changed_configuration(watched: BootedHost) -> None:
    before = guests.main_pid(watched)
    steps.write(watched, CONFIG, '[domains]\nmanage = "off"\n')
    try:
        watched.run(f"systemctl reload {WATCH}")
        guests.wait_for_watcher(watched, lambda now: now["guests"].get("off") == 1, "the old guest to be off")
        guests.define(watched, "unmanaged")
        guests.wait_for_watcher(watched, lambda now: now["guests"].get("off") == 2, "the new one to be off")
        assert guests.aliases(watched, "unmanaged") == []
    finally:
        watched.run(f"rm {CONFIG} && systemctl reload {WATCH}")
    guests.wait_for_device(watched, "unmanaged")
    guests.define(watched, "managed-again")
    guests.wait_for_device(watched, "managed-again")
    assert guests.aliases(watched, OLD) == []
    assert guests.main_pid(watched) == before


def test_a_wrong_configuration_is_refused_at_a_reload_and_waits_for_who_mends_it_at_a_start(
    watched: BootedHost,
) -> None:
    before = guests.main_pid(watched)
    steps.write(watched, CONFIG, "[domains]\nmanage = 0\n")
    try:
        watched.run(f"systemctl reload {WATCH}")
        watched.wait_until(f"journalctl -b -u {WATCH} -p err -o cat | grep -q domains.manage", "an error")
        assert guests.main_pid(watched) == before
        watched.run(f"systemctl stop {WATCH}")
        assert watched.try_run(f"systemctl start {WATCH}").status != 0
        assert steps.shown(watched, WATCH, "ActiveState", "ExecMainStatus", "NRestarts") == [
            "failed",
            "2",
            "0",
        ]
    finally:
        watched.run(f"rm {CONFIG}")


def test_killed_it_is_back(watched: BootedHost) -> None:
    before = guests.main_pid(watched)
    watched.run(f"kill -KILL {before}")
    guests.wait_for_watcher(watched, lambda now: now["pid"] != before, "another watcher")
    guests.define(watched, "after-kill")
    guests.wait_for_device(watched, "after-kill")
    assert restarts(watched) == 1
    assert guests.aliases(watched, OLD) == [], "it remembers who was there before the first one"


def test_stopped_it_ends_also_while_libvirtd_hangs_and_its_files_stay(watched: BootedHost) -> None:
    (libvirtd,) = steps.shown(watched, "libvirtd", "MainPID")
    (inode,) = watched.run("stat -c %i /run/virtrng-watch").split()
    watched.run(f"kill -STOP {libvirtd}")
    try:
        watched.run(f"systemctl stop {WATCH}")
    finally:
        watched.run(f"kill -CONT {libvirtd}")
    assert steps.shown(watched, WATCH, "ActiveState", "Result", "ExecMainStatus") == [
        "inactive",
        "success",
        "0",
    ]
    assert watched.run("stat -c %i /run/virtrng-watch") == inode
    assert steps.shown(watched, f"{WATCH}-metrics.socket", "ActiveState") == ["inactive"]


def test_every_device_is_there_once(watched: BootedHost) -> None:
    found = guests.all_aliases(watched)
    assert found.pop(OLD) == []
    assert len(found) > 1
    assert {tuple(aliases) for aliases in found.values()} == {(ALIAS,)}
