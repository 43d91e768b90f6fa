# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which guests are looked after, and the memory of those that were there first."""

import json
import resource
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.support import in_child
from virtrng.config import DomainSettings, Rule
from virtrng.domain import facts, manage, xml
from virtrng.domain.facts import Facts
from virtrng.domain.hypervisor import Hypervisor
from virtrng.errors import BadMemory, FileFailed, HypervisorFault

HOST = "08bf9172-bcfc-4143-bff7-30096a27afed"
ONE, TWO = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0", "4dea22b3-1d52-d8f3-2516-782e98ab3fa1"
WISH = "<metadata><v:guest xmlns:v='urn:virtrng:domain:1' device='{}'/></metadata>"
OFF, ALL, NEW = (DomainSettings(manage=word) for word in ("off", "all", "new"))


def never() -> list[str]:
    raise AssertionError("nobody is to be asked")


def guest(metadata: str = "") -> Facts:
    return facts.of(xml.parse(f"<domain><name>web</name><uuid>{ONE}</uuid>{metadata}</domain>".encode()))


@pytest.mark.parametrize(
    ("settings", "remembered", "word"),
    [
        (NEW, [], None), (NEW, [TWO], None), (NEW, [ONE], "before"), (ALL, [ONE], None), (OFF, [], "off"),
        (DomainSettings(manage="off", rules=(Rule(match="w*", manage="all"),)), [ONE], None),
        (DomainSettings(manage="all", rules=(Rule(match=ONE, manage="new"),)), [ONE], "before"),
        (DomainSettings(manage="all", rules=(Rule(match="x*", manage="off"),)), [ONE], None),
        (DomainSettings(manage="all", rules=(Rule(match="web", manage="off"),)), [], "off"),
    ],
)  # fmt: skip
def test_who_is_left_alone(settings: DomainSettings, remembered: list[str], word: str | None) -> None:
    left = manage.left_alone(guest(), settings, remembered, has_ours=False)
    assert (left and left.word) == word
    assert manage.left_alone(guest(), settings, remembered, has_ours=True) is None
    assert manage.left_alone(guest(WISH.format("on")), settings, remembered, has_ours=False) is None
    unwanted = manage.left_alone(guest(WISH.format("off")), settings, remembered, has_ours=False)
    assert (unwanted and unwanted.word) == word


def test_the_first_time_it_remembers_who_is_there_and_then_asks_no_more(tmp_path: Path) -> None:
    state_dir = tmp_path / "not" / "there yet"
    assert manage.recall(state_dir, HOST) is None
    assert not state_dir.exists()
    assert manage.remember(state_dir, HOST, lambda: [TWO, ONE]) == {ONE, TWO}
    assert manage.remember(state_dir, HOST, never) == {ONE, TWO}
    (path,) = state_dir.iterdir()
    assert path.name == f"{HOST}.json"
    assert json.loads(path.read_bytes()) == {"version": 1, "guests": [ONE, TWO]}
    assert path.stat().st_mode & 0o777 == 0o644


def test_each_libvirt_host_has_its_own_and_none_at_all_is_remembered_too(tmp_path: Path) -> None:
    assert manage.remember(tmp_path, HOST, list) == frozenset()
    assert manage.remember(tmp_path, HOST, never) == frozenset()
    assert manage.remember(tmp_path, TWO, lambda: [ONE]) == {ONE}
    assert len([*tmp_path.iterdir()]) == 2


def test_uuids_are_compared_as_libvirt_writes_them(tmp_path: Path) -> None:
    (tmp_path / f"{HOST}.json").write_text(
        json.dumps({"version": 1, "guests": [ONE.upper(), uuid.UUID(TWO).hex]})
    )
    assert manage.recall(tmp_path, HOST) == frozenset({ONE, TWO})


BROKEN = {
    b"": "not a list of guests: ",
    b'{"version": 1, "guests": ["4dea2': "not a list of guests: ",
    b"[]": "not a list of guests: ",
    b"null": "not a list of guests: ",
    b"\xff\xfe\x00": "not a list of guests: ",
    b"[" * 100_000: "not a list of guests: ",
    b'{"guests": []}': "not a list of guests: 'version'",
    b'{"version": 1}': "not a list of guests: 'guests'",
    b'{"version": 1, "guests": [7]}': "not a list of guests: ",
    b'{"version": 1, "guests": ["web"]}': "not a list of guests: ",
    b'{"version": 1, "guests": {}}': "not a list of guests: guests is {}",
    b'{"version": 1, "guests": ""}': "not a list of guests: guests is ''",
    b'{"version": 1, "guests": null}': "not a list of guests: guests is None",
    b'{"version": 2, "guests": []}': "version 2, where 1 is known",
}


@pytest.mark.parametrize(("content", "why"), BROKEN.items(), ids=range(len(BROKEN)))
def test_a_memory_that_tells_nothing_is_an_error_and_stays(tmp_path: Path, content: bytes, why: str) -> None:
    path = tmp_path / f"{HOST}.json"
    path.write_bytes(content)
    acts: list[Callable[[], object]] = [
        lambda: manage.recall(tmp_path, HOST),
        lambda: manage.remember(tmp_path, HOST, never),
    ]
    for act in acts:
        with pytest.raises(BadMemory) as caught:
            act()
        assert str(caught.value).startswith(f"{path}: {why}")
        assert "put it back from a backup, or move it away" in caught.value.remedy
    assert path.read_bytes() == content


def test_one_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / f"{HOST}.json").mkdir()
    with pytest.raises(FileFailed, match=r"cannot read .*\.json: Is a directory"):
        manage.recall(tmp_path, HOST)
    with pytest.raises(FileFailed, match="cannot read"):
        manage.remember(tmp_path / f"{HOST}.json" / "..", HOST, never)


def test_what_another_user_keeps_to_himself(open_path: Path) -> None:
    path = open_path / f"{HOST}.json"
    path.write_text("{}")
    path.chmod(0)
    said = in_child(lambda: manage.recall(open_path, HOST), nobody=True)
    assert said == f"FileFailed: cannot read {path}: Permission denied"


def test_it_goes_no_further_without_having_remembered(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FileFailed, match="Not a directory"):
        manage.remember(tmp_path / "file", HOST, never)

    def on_a_full_disk() -> object:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        return manage.remember(tmp_path / "state", HOST, lambda: [ONE])

    assert in_child(on_a_full_disk).startswith(f"FileFailed: cannot write {tmp_path}/state/{HOST}.json: ")
    assert [*(tmp_path / "state").iterdir()] == []
    assert manage.remember(tmp_path / "state", HOST, lambda: [TWO]) == {TWO}


def test_the_uuid_of_the_host() -> None:
    capabilities = (
        "<capabilities>\n<host><uuid>{}</uuid><cpu/></host><guest><uuid>1</uuid></guest></capabilities>\n"
    )
    assert manage.host_uuid(capabilities.format(HOST.upper()).encode()) == HOST
    for found in ("", "../../etc/passwd", HOST[:-1]):
        with pytest.raises(HypervisorFault, match="libvirt failed to tell the UUID of its host"):
            manage.host_uuid(capabilities.format(found).encode())
    with Hypervisor("test:///default") as hypervisor, pytest.raises(HypervisorFault):
        manage.host_uuid(hypervisor.capabilities())
