# SPDX-License-Identifier: LGPL-2.1-or-later
"""The guests' part of `virtrng status`, with libvirt's own test driver."""

from collections.abc import Callable, Iterator

import libvirt
import pytest

from tests.unit.cli.conftest import Command, Ran
from virtrng.domain import hypervisor
from virtrng.errors import ExitCode, HypervisorFault, NoHypervisor


def test_guests_of_the_test_driver(show: Callable[..., Ran]) -> None:
    ran = show()
    header, _, *rows = ran.lines[ran.lines.index("") + 1 :]
    assert header.split("  ")[0] == "GUEST"
    assert [row.split() for row in rows] == [["test", "running", "none", "none"]]


def test_no_libvirt_is_told_and_no_error(show: Callable[..., Ran]) -> None:
    ran = show(uri="qemu+unix:///system?socket=/nonexistent")
    assert ran.code == 0
    assert ran.lines[-1].startswith(
        "guests  not known: no libvirt answers at qemu+unix:///system?socket=/non"
    )
    document = show("--json", uri="qemu+unix:///system?socket=/nonexistent").json
    assert document["guests"] is None
    assert document["guests_error"].startswith("no libvirt answers at ")  # NoHypervisor
    assert NoHypervisor.exit_code is ExitCode.FAILED


WITH_DEVICES = """
<domain type='test'>
  <name>other</name>
  <uuid>6695eb01-f6a4-8304-79aa-97f2502e1940</uuid>
  <metadata><virtrng:guest xmlns:virtrng="urn:virtrng:domain:1" device="off"/></metadata>
  <memory>4096</memory>
  <os><type>hvm</type></os>
  <devices>
    <rng model='virtio'>
      <rate bytes='1024' period='2000'/><backend model='random'>/dev/urandom</backend>
      <alias name='ua-virtrng0'/>
    </rng>
    <rng model='virtio'><backend model='egd' type='unix'>
      <source mode='connect' path='/run/egd'/></backend></rng>
  </devices>
</domain>
"""


@pytest.fixture
def other() -> Iterator[None]:
    """Have the test driver run a second guest.

    Not out of a file: where lxml has been imported libvirt may not read one in the same process, since lxml
    takes the data of its parser for its own (libvirt 9.0, src/util/virxml.c; lxml 4.9).
    """
    connection = libvirt.open("test:///default")  # it is kept until the last connection to it is closed
    connection.defineXML(WITH_DEVICES).create()
    yield
    connection.close()


def test_what_guests_have(show: Callable[..., Ran], other: None) -> None:
    ran = show()
    row = next(line for line in ran.lines if line.startswith("other"))
    both = "ours: /dev/urandom, 1024 B/2000 ms; foreign: egd, unlimited"
    assert row.replace(both, "BOTH").split()[:5] == ["other", "running", "BOTH", "BOTH", "no"]
    for half in ("definition", "running guest"):
        assert f"{half}: has one that is not wanted" in row
        assert f"{half}: 2 virtio-rngs" in row
    (guest, _) = show("--json").json["guests"]
    assert guest["wanted"] is False
    assert guest["definition"][0] == {
        "ours": True,
        "model": "virtio",
        "backend": "random",
        "source": "/dev/urandom",
        "rate_bytes": 1024,
        "rate_period_ms": 2000,
        "text": "/dev/urandom, 1024 B/2000 ms",
    }
    assert guest["definition"][1]["source"] is None
    assert guest["definition"][1]["rate_bytes"] is None


def test_a_host_without_guests(show: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hypervisor.Hypervisor, "guests", lambda _self: [])
    ran = show()
    assert ran.lines[-1] == "guests  none"
    assert show("--json").json["guests"] == []


def test_a_libvirt_that_fails_midway(show: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: object) -> list[object]:
        raise HypervisorFault("list the guests", "internal error")

    monkeypatch.setattr(hypervisor.Hypervisor, "guests", fail)
    ran = show()
    assert ran.code == 0
    assert ran.lines[-1] == "guests  not known: libvirt failed to list the guests: internal error"


def test_the_default_uri_of_the_environment(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "test:///default")
    assert [guest["name"] for guest in command("status", "--json").json["guests"]] == ["test"]
