# SPDX-License-Identifier: LGPL-2.1-or-later
"""One booted host for the whole run, virtrng installed as README.md says, and a simulated key to plug in."""

import os
import sys
from collections.abc import Iterator

import pytest

from tests.host import steps
from tests.host.machine import BootedHost

BOTH = """
[Unit]
Wants=libvirtd.service virtrng-feeder.service
"""
REFUSED = r"Operation not permitted|Permission denied|Traceback|SIGSYS|status=31/SYS|type=1326"


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootedHost]:
    """Yield the host: booted, the service installed and started, no key plugged in yet."""
    if os.geteuid() != 0:
        pytest.skip("making the host's image needs root")
    with BootedHost(tmp_path_factory.mktemp("host")) as host:
        for unit, text in {
            "virtrng-feeder.service.d/tests.conf": steps.DROP_IN,
            "both.target": BOTH,
        }.items():
            steps.write(host, f"/etc/systemd/system/{unit}", text)
        files, start = steps.readme_commands("## Install")
        host.run(f"set -e\n{files}")
        host.run("systemctl enable --no-reload virtrng-metrics.socket")
        host.run(start)
        # The service has started on a machine without USB: now it gets some.
        host.run("modprobe vhci-hcd")
        host.run(f"systemd-run --unit=key virtrng simulate entropykey {steps.SIMULATE}")
        host.wait_until("usbip list --remote 127.0.0.1 | grep -q 20df:0001", "the key's export")
        yield host


@pytest.fixture
def running(host: BootedHost) -> BootedHost:
    """Give the host with the service running."""
    host.run("systemctl start virtrng-feeder")
    return host


@pytest.fixture
def keyless(running: BootedHost) -> BootedHost:
    """Give the host with the service running, and no key plugged in."""
    steps.unplug(running)
    return running


@pytest.fixture
def fed(running: BootedHost) -> BootedHost:
    """Give the host with the service running, fed by the key."""
    steps.plug(running)
    steps.pair(running)
    steps.wait_for_seeds(running, 1)
    return running


@pytest.fixture(autouse=True)
def nothing_is_refused(host: BootedHost) -> Iterator[None]:
    """Fail a test in which the sandbox was in the way; show the journal of any that fails."""
    yield
    sys.stdout.write(host.journal())
    found = host.try_run(f"journalctl -b --no-pager -o cat | grep -E '{REFUSED}'").output
    assert found == ""
