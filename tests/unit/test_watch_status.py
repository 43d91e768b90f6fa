# SPDX-License-Identifier: LGPL-2.1-or-later
"""watch.json: written whole, read with care."""

import dataclasses
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from tests.unit.support import in_child
from virtrng import files, watch_status
from virtrng.errors import BadStatus, FileFailed
from virtrng.watch_status import LATENCY_BOUNDS_S, STANDINGS, Latency, Noted, WatchStatus

NOTED = Noted("web01", "4dea22b3-1d52-d8f3-2516-782e98ab3fa0", "failed", "no free port")
WHOLE = WatchStatus(
    1_700_000_001.5, 77, "qemu:///system", guests={"managed": 37, "before": 2}, without_device=3, changes=12,
    failures=1, last_pass_boottime_s=500.5, noted=(NOTED, dataclasses.replace(NOTED, word="contested")),
    latency=Latency((0, 0, 1, 2, 3, 4, 5, 6, 7, 8), 400.25),
)  # fmt: skip
WAITING = WatchStatus(1.0, 1, "qemu:///system", waiting="no libvirt answers at qemu:///system")


@pytest.mark.parametrize("what", [WHOLE, WAITING])
def test_what_is_written_is_read(what: WatchStatus, tmp_path: Path) -> None:
    watch_status.write(tmp_path / "run-watch", what)
    assert watch_status.read(tmp_path / "run-watch") == what


def test_the_file_is_one_object_that_everybody_may_read(tmp_path: Path) -> None:
    watch_status.write(tmp_path, WHOLE)
    file = tmp_path / "watch.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    document = json.loads(file.read_bytes())
    assert list(document) == [
        "updated_at", "pid", "uri", "waiting", "guests", "without_device", "changes", "failures",
        "last_pass_boottime_s", "noted", "latency", "version",
    ]  # fmt: skip
    assert document["version"] == 1
    assert document["noted"][0] == {
        "name": "web01",
        "uuid": "4dea22b3-1d52-d8f3-2516-782e98ab3fa0",
        "word": "failed",
        "why": "no free port",
    }
    assert document["latency"] == {"counts": [0, 0, 1, 2, 3, 4, 5, 6, 7, 8], "sum_s": 400.25}


def test_there_is_a_count_for_each_bound_and_one_above() -> None:
    assert len(Latency().counts) == len(LATENCY_BOUNDS_S) + 1
    assert sorted(LATENCY_BOUNDS_S) == list(LATENCY_BOUNDS_S)


def test_the_documentation_names_every_standing() -> None:
    named = str(WatchStatus.__doc__)
    assert [word for word in STANDINGS if word not in named] == []


def test_there_may_be_none(tmp_path: Path) -> None:
    assert watch_status.read(tmp_path) is None
    assert watch_status.read(tmp_path / "none") is None


def test_fields_of_a_newer_watcher_are_passed_over(tmp_path: Path) -> None:
    document = dataclasses.asdict(WHOLE)
    document["more"] = [1]
    document["latency"]["more"] = None
    for one in document["noted"]:
        one["more"] = {}
    (tmp_path / "watch.json").write_text(json.dumps(document))
    assert watch_status.read(tmp_path) == WHOLE


def test_a_standing_of_a_newer_watcher_is_kept(tmp_path: Path) -> None:
    newer = dataclasses.replace(WHOLE, guests={"managed": 1, "adopted": 2})
    watch_status.write(tmp_path, newer)
    assert watch_status.read(tmp_path) == newer


def test_what_an_older_watcher_did_not_tell_is_its_default(tmp_path: Path) -> None:
    least = {"version": 1, "updated_at": 5, "pid": 7, "uri": "test:///default"}
    (tmp_path / "watch.json").write_text(json.dumps(least))
    assert watch_status.read(tmp_path) == WatchStatus(5.0, 7, "test:///default")


GARBAGE = {
    "empty": (b"", "not JSON: "),
    "latin-1": (b'{"version": "\xff"}', "not JSON: "),
    "cut short": (b'{"version": 1, "noted"', "not JSON: "),
    "too deep": (b"[" * 100_000, "not JSON: "),
    "too long": (b'{"version": 1, "pid": 1%s}' % (b"0" * 5000), "not JSON: "),
    "a list": (b"[]", "not a watcher's status: "),
    "a number": (b"1", "not a watcher's status: "),
    "a word": (b'"version"', "not a watcher's status: "),
    "nothing": (b"{}", "not a watcher's status: 'version'"),
    "version 2": (b'{"version": 2}', "version 2, where 1 is known"),
    "version '1'": (b'{"version": "1"}', "version '1', where 1 is known"),
    "version true": (b'{"version": true, "updated_at": 1, "pid": 7, "uri": ""}', "not a watcher's status: "),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage(name: str, tmp_path: Path) -> None:
    content, why = GARBAGE[name]
    (tmp_path / "watch.json").write_bytes(content)
    with pytest.raises(BadStatus) as caught:
        watch_status.read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/watch.json: {why}")
    assert caught.value.remedy == "restart what writes it: virtrng-feeder or virtrng-watch"


def test_however_deep_it_is(tmp_path: Path) -> None:
    """Near 1,000 Python's json gives up; what it still reads is told in the error."""
    for depth in range(700, 1000, 5):
        nested = "[" * depth + "]" * depth
        (tmp_path / "watch.json").write_text(f'{{"version": 1, "updated_at": 1, "uri": "", "pid": {nested}}}')
        with pytest.raises(BadStatus, match=r"watch.json: not "):
            watch_status.read(tmp_path)


WRONG: list[tuple[str, Any]] = [
    ("updated_at", None),
    ("updated_at", float("nan")),
    ("updated_at", 10**400),
    ("pid", "7"),
    ("pid", 7.5),
    ("pid", True),
    ("uri", None),
    ("waiting", 1),
    ("guests", None),
    ("guests", ["managed"]),
    ("guests", {"managed": "many"}),
    ("guests", {"managed": True}),
    ("guests", {"managed": float("inf")}),
    ("without_device", None),
    ("changes", 1.5),
    ("failures", "0"),
    ("last_pass_boottime_s", "now"),
    ("last_pass_boottime_s", float("inf")),
    ("noted", None),
    ("noted", {}),
    ("noted", ""),
    ("noted", [None]),
    ("noted", [{}]),
    ("noted.name", None),
    ("noted.why", 1),
    ("noted.word", ["failed"]),
    ("latency", 0),
    ("latency", []),
    ("latency", "counts"),
    ("latency.counts", None),
    ("latency.counts", []),
    ("latency.counts", [0] * len(LATENCY_BOUNDS_S)),
    ("latency.counts", ["0"] * (len(LATENCY_BOUNDS_S) + 1)),
    ("latency.counts", [0.5] * (len(LATENCY_BOUNDS_S) + 1)),
    ("latency.sum_s", None),
    ("latency.sum_s", float("nan")),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_value_of_the_wrong_type(field: str, value: Any, tmp_path: Path) -> None:
    document = dataclasses.asdict(WHOLE)
    place, _, name = field.rpartition(".")
    target = {"": document, "noted": document["noted"][0], "latency": document["latency"]}[place]
    target[name] = value
    (tmp_path / "watch.json").write_text(json.dumps(document))
    with pytest.raises(BadStatus, match="not a watcher's status: "):
        watch_status.read(tmp_path)


@pytest.mark.parametrize("field", ["version", "updated_at", "pid", "uri", "noted.name", "noted.why"])
def test_a_value_that_is_missing(field: str, tmp_path: Path) -> None:
    document = dataclasses.asdict(WHOLE)
    place, _, name = field.rpartition(".")
    del (document["noted"][0] if place else document)[name]
    (tmp_path / "watch.json").write_text(json.dumps(document))
    with pytest.raises(BadStatus, match=f"not a watcher's status: '{name}'"):
        watch_status.read(tmp_path)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "watch.json").mkdir()
    with pytest.raises(BadStatus, match="Is a directory"):
        watch_status.read(tmp_path)
    with pytest.raises(FileFailed, match=r"cannot replace .*watch.json"):
        watch_status.write(tmp_path, WHOLE)


def test_a_directory_that_is_closed(open_path: Path) -> None:
    watch_status.write(open_path / "closed", WHOLE)
    (open_path / "closed").chmod(0)
    said = in_child(lambda: watch_status.read(open_path / "closed"), nobody=True)
    (open_path / "closed").chmod(0o700)
    assert said == f"BadStatus: {open_path}/closed/watch.json: Permission denied"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)
FIELDS = [field.name for field in dataclasses.fields(WatchStatus)]


@settings(derandomize=True, max_examples=scaled(80))
@given(
    st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=4),
    st.dictionaries(st.sampled_from(["name", "uuid", "word", "why"]), JSON, max_size=1),
    st.dictionaries(st.sampled_from(["counts", "sum_s"]), JSON, max_size=1),
)
def test_whatever_it_holds_is_a_status_or_a_bad_one(
    tmp_path_factory: pytest.TempPathFactory, top: Any, noted: Any, latency: Any
) -> None:
    watch_dir = tmp_path_factory.getbasetemp()
    document = json.loads(json.dumps(dataclasses.asdict(WHOLE)))
    document["noted"][0] |= noted
    document["latency"] |= latency
    (watch_dir / "watch.json").write_text(json.dumps(document | top))
    try:
        found = watch_status.read(watch_dir)
    except BadStatus:
        return
    assert found is not None
    watch_status.write(watch_dir, found)
    assert watch_status.read(watch_dir) == found
    assert sum(found.latency.counts) == sum(WHOLE.latency.counts) or "latency" in top


@settings(derandomize=True, max_examples=scaled(80))
@given(JSON)
def test_any_document_is_a_bad_one(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    watch_dir = tmp_path_factory.getbasetemp()
    (watch_dir / "watch.json").write_text(json.dumps(document))
    with pytest.raises(BadStatus):
        watch_status.read(watch_dir)


# --- who runs


def test_who_runs_is_who_holds_the_lock(tmp_path: Path) -> None:
    assert watch_status.holder(tmp_path, watch_status.read(tmp_path)) is None
    lock = files.Lock(tmp_path / watch_status.LOCK_NAME, mode=0o600)
    assert lock.acquire("virtrng watch (pid 7)") is None
    assert in_child(lambda: watch_status.holder(tmp_path, None)) == "virtrng watch (pid 7)"
    lock.release()
    assert in_child(lambda: watch_status.holder(tmp_path, WHOLE)) == "None"


@pytest.mark.parametrize("pid", [os.getpid(), 2**22 + 1, 10**300], ids=["alive", "gone", "absurd"])
def test_to_another_user_it_is_whose_process_is_there(open_path: Path, pid: int) -> None:
    lock = files.Lock(open_path / watch_status.LOCK_NAME, mode=0o000)
    assert lock.acquire("somebody") is None
    assert in_child(lambda: watch_status.holder(open_path, None), nobody=True) == "None", (
        "nothing was written yet"
    )
    last = dataclasses.replace(WHOLE, pid=pid)
    told = f"virtrng watch (pid {pid})" if pid == os.getpid() else "None"
    assert in_child(lambda: watch_status.holder(open_path, last), nobody=True) == told
    lock.release()
