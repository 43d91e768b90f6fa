# SPDX-License-Identifier: LGPL-2.1-or-later
"""One booted host for the whole run, virtrng installed as README.md says, and a simulated key to plug in."""

import os
import re
import sys
from collections.abc import Iterator

import pytest

from tests.host import steps
from tests.host.machine import TREE, BootedHost

# Emulation is slow. And what the filter of system calls refuses ends the process here, where it would get
# EPERM, so that nothing that it goes on without stays unseen.
DROP_IN = """
[Service]
SystemCallErrorNumber=
TimeoutStartSec=180
WatchdogSec=15
"""
# libvirtd as far as the order of starting goes.
LIBVIRTD = """
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
"""
BOTH = """
[Unit]
Wants=libvirtd.service virtrng-feeder.service
"""
REFUSED = r"Operation not permitted|Permission denied|Traceback|SIGSYS|status=31/SYS|type=1326"
NOT_HERE = ("make install", "virtrng keys", "virtrng hook", "virtrng status")


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootedHost]:
    """Yield the host: booted, the service installed and started, no key plugged in yet."""
    if os.geteuid() != 0:
        pytest.skip("making the host's image needs root")
    with BootedHost(tmp_path_factory.mktemp("host")) as host:
        for unit, text in {
            "virtrng-feeder.service.d/tests.conf": DROP_IN,
            "libvirtd.service": LIBVIRTD,
            "both.target": BOTH,
        }.items():
            steps.write(host, f"/etc/systemd/system/{unit}", text)
        files, start = readme_commands()
        host.run(f"set -e\n{files}")
        host.run("systemctl daemon-reload && systemctl enable virtrng-metrics.socket")
        host.run(start)
        # The service has started on a machine without USB: now it gets some.
        host.run("modprobe vhci-hcd")
        host.run(f"systemd-run --unit=key virtrng simulate entropykey {steps.SIMULATE}")
        host.wait_until("usbip list --remote 127.0.0.1 | grep -q 20df:0001", "the key's export")
        yield host


def readme_commands() -> tuple[str, str]:
    """Return what README.md has one run to install: the commands that make files, and those that start."""
    found = re.search(r"^## Install\n+((?: {4}.*\n|\n)+)", (TREE / "README.md").read_text(), re.MULTILINE)
    assert found, "README.md says nothing of installing"
    lines = [line.removeprefix("    ") for line in found.group(1).splitlines()]
    ours = [line for line in lines if line and not line.startswith(NOT_HERE)]
    (start,) = (line for line in ours if line.startswith("systemctl"))
    assert ours[-1] == start
    return "\n".join(ours[:-1]), start


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
