# SPDX-License-Identifier: LGPL-2.1-or-later
"""libvirt's errors as ours, by its own test driver and a real socket."""

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import libvirt
import pytest

from tests.unit.support import in_child
from virtrng.config import DomainSettings
from virtrng.domain import policy, reconcile
from virtrng.domain.halves import Scope
from virtrng.domain.hypervisor import Guest, Hypervisor
from virtrng.domain.policy import Request
from virtrng.errors import (
    DomainBusy,
    HypervisorDenied,
    HypervisorFault,
    NoHypervisor,
    NoSuchDomain,
    NotAttached,
    VirtrngError,
)

URI = "test:///default"


@pytest.fixture
def hypervisor() -> Iterator[Hypervisor]:
    with Hypervisor(URI) as connected:
        yield connected


def libvirt_error(code: int, message: str) -> libvirt.libvirtError:
    error = libvirt.libvirtError(message)
    error.err = (code, 0, message, 2, "", None, None, -1, -1)
    return error


def test_guests_are_found_by_name_uuid_and_id(hypervisor: Hypervisor) -> None:
    names = {
        hypervisor.guest(wanted).name for wanted in ("test", "1", "6695eb01-f6a4-8304-79aa-97f2502e193f")
    }
    assert names == {"test"}
    assert [guest.name for guest in hypervisor.guests()] == ["test"]


@pytest.mark.parametrize("wanted", ["none", "9", "6695eb01-f6a4-8304-79aa-97f2502e1999", "x" * 36, "x" * 32])
def test_a_guest_that_nobody_has(wanted: str, hypervisor: Hypervisor) -> None:
    with pytest.raises(NoSuchDomain) as caught:
        hypervisor.guest(wanted)
    assert str(caught.value) == f"no guest is called '{wanted}' at {URI}"
    assert caught.value.remedy == f"'virsh -c {URI} list --all' shows their names"


def test_no_daemon(tmp_path: Path) -> None:
    uri = f"qemu+unix:///system?socket={tmp_path}/none"
    with pytest.raises(NoHypervisor, match=r"^no libvirt answers at qemu"):
        Hypervisor(uri)
    with pytest.raises(NoHypervisor):
        Hypervisor("nonsense:///x")


def test_a_socket_that_may_not_be_opened(open_path: Path) -> None:
    path = open_path / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        path.chmod(0)
        said = in_child(lambda: Hypervisor(f"qemu+unix:///system?socket={path}"), nobody=True)
    assert said.startswith(
        f"{HypervisorDenied.__name__}: libvirt at qemu+unix:///system?socket={path} refuses"
    )
    assert said.endswith(": Permission denied")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (libvirt.VIR_ERR_OPERATION_TIMEOUT, DomainBusy),
        (libvirt.VIR_ERR_NO_DOMAIN, NoSuchDomain),
        (libvirt.VIR_ERR_INTERNAL_ERROR, HypervisorFault),
        (libvirt.VIR_ERR_OPERATION_INVALID, HypervisorFault),
    ],
)
def test_each_error_of_a_call(code: int, kind: type[VirtrngError], hypervisor: Hypervisor) -> None:
    guest = hypervisor.guest("test")

    class Failing:
        def __getattr__(self, name: str) -> Callable[..., object]:
            def fail(*_: object) -> object:
                raise libvirt_error(code, "said libvirt")

            return fail if name != "connect" else lambda: hypervisor._connection

    guest._domain = Failing()
    calls: list[Callable[[], object]] = [
        lambda: guest.active,
        lambda: guest.persistent,
        guest.definition,
        guest.running,
        lambda: guest.attach("<rng/>", live=True),
        lambda: guest.detach("ua-virtrng0", live=False),
    ]
    for call in calls:
        with pytest.raises(kind) as caught:
            call()
        assert "test" in str(caught.value)


def test_a_device_that_is_not_there_although_libvirt_said_so(
    hypervisor: Hypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "OUR_TYPES", ("test",))
    monkeypatch.setattr(Guest, "attach", lambda _self, _device, *, live: None)
    with pytest.raises(NotAttached, match=r"^test: the device is not in its definition, although libvirt"):
        reconcile.enable(
            hypervisor.guest("test"), DomainSettings(), Request(), Scope(config=True, live=False)
        )
