# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is the service back by itself, whatever ends it, and does no boot wait for it in vain?"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.host import steps
from tests.host.machine import BootedHost

RUN_DROP_IN = "/run/systemd/system/virtrng-feeder.service.d/zz-tests.conf"
HUNG = "ExecStart=\nExecStart=/bin/sleep infinity\nTimeoutStartSec=3"
CRASHING = "ExecStart=\nExecStart=/bin/false"
CONFIG = "/etc/virtrng/virtrng.toml"
RESTARTS = "$(systemctl show --value -p NRestarts virtrng-feeder)"
STARTS_OF_A_LIMIT = 5  # DefaultStartLimitBurst= of systemd-system.conf(5), within 10 s


@contextmanager
def changed(host: BootedHost, settings: str) -> Iterator[None]:
    """Have the service stopped, and other settings in it, for a while."""
    host.run("systemctl stop virtrng-feeder; systemctl reset-failed virtrng-feeder")
    steps.write(host, RUN_DROP_IN, f"[Service]\n{settings}\n")
    host.run("systemctl daemon-reload")
    try:
        yield
    finally:
        host.run(f"systemctl stop virtrng-feeder; rm {RUN_DROP_IN}; systemctl daemon-reload")


def test_libvirtd_starts_after_it_is_ready(host: BootedHost) -> None:
    host.run("systemctl stop virtrng-feeder libvirtd both.target && systemctl start both.target")
    (ready,) = steps.shown(host, "virtrng-feeder", "ActiveEnterTimestampMonotonic")
    (started,) = steps.shown(host, "libvirtd", "InactiveExitTimestampMonotonic")
    assert 0 < int(ready) <= int(started)
    assert "virtqemud.service" in steps.shown(host, "virtrng-feeder", "Before")[0].split()


def test_libvirtd_starts_although_it_hangs(host: BootedHost) -> None:
    with changed(host, HUNG):
        host.run("systemctl stop libvirtd both.target && systemctl start both.target")
        assert steps.shown(host, "libvirtd", "ActiveState") == ["active"]
        host.wait_until(f"[ {RESTARTS} -gt 0 ]", "another try")


def test_libvirtd_starts_although_it_fails_and_it_is_tried_again_however_often(host: BootedHost) -> None:
    with changed(host, CRASHING):
        host.run("systemctl stop libvirtd both.target && systemctl start both.target")
        assert steps.shown(host, "libvirtd", "ActiveState") == ["active"]
        host.wait_until(f"[ {RESTARTS} -gt {STARTS_OF_A_LIMIT} ]", "more starts than a limit allows")


def test_a_wrong_configuration_waits_for_who_mends_it(host: BootedHost) -> None:
    host.run("systemctl stop virtrng-feeder; systemctl reset-failed virtrng-feeder")
    steps.write(host, CONFIG, "[feeder]\ninterval_s = 0\n")
    try:
        assert host.try_run("systemctl start virtrng-feeder").status != 0
        assert steps.shown(host, "virtrng-feeder", "ActiveState", "ExecMainStatus", "NRestarts") == [
            "failed",
            "2",
            "0",
        ]
    finally:
        host.run(f"rm {CONFIG}")


@pytest.mark.parametrize("which", [0, 1], ids=["reader", "injector"])
def test_killed_it_is_back(fed: BootedHost, which: int) -> None:
    before = steps.pids(fed)
    (inode,) = fed.run("stat -c %i /run/virtrng").split()
    fed.run(f"kill -KILL {before[which]}")
    wait_for_another(fed, before[0])
    assert not {*before} & {*steps.pids(fed)}
    assert fed.try_run(f"kill -0 {before[0]} || kill -0 {before[1]}").status != 0
    assert fed.run("stat -c %i /run/virtrng") == inode
    steps.wait_for_seeds(fed, 1)


def test_hung_it_is_killed_by_the_watchdog_and_is_back(fed: BootedHost) -> None:
    before = steps.pids(fed)
    fed.run(f"kill -STOP {before[0]}")
    wait_for_another(fed, before[0])
    assert fed.run("journalctl -b -u virtrng-feeder -o cat | grep -c 'Watchdog timeout'") == "1"
    assert not {*before} & {*steps.pids(fed)}
    steps.wait_for_seeds(fed, 1)


def wait_for_another(host: BootedHost, pid: int) -> None:
    """Wait until the service has another main process, and is ready."""
    now = "systemctl show -p MainPID -p ActiveState virtrng-feeder | paste -s -d ' '"
    another = f"grep -v -E '^MainPID=(0|{pid}) ' | grep -q ActiveState=active"
    host.wait_until(f"{now} | {another}", "the service to be back")
