# SPDX-License-Identifier: LGPL-2.1-or-later
"""feeder.json: written whole, read with care."""

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
from virtrng import files, status
from virtrng.errors import BadStatus, FileFailed
from virtrng.status import FeederStatus, KernelStatus, KeyStatus

KEY = KeyStatus(
    "entropykey", "a/b", "ok", simulated=False, bytes_read=10, blocks_tested=3, blocks_failed=1,
    frames_bad=2, sessions=1, last_fault="block 2 dropped: it failed runs",
    telemetry={"temperature_k": 314.3, "fips_blocks": 7342}, verdict="no failure",
)  # fmt: skip
KERNEL = KernelStatus(4, 1024, 10_000, 1_700_000_000.25, 500.5, 256)
WHOLE = FeederStatus(
    1_700_000_001.5, 77, (KEY, dataclasses.replace(KEY, serial="c", last_fault=None)), KERNEL
)
EMPTY = FeederStatus(1.0, 1, (), KernelStatus(0, 0, 0, None, None, 0))


@pytest.mark.parametrize("what", [WHOLE, EMPTY])
def test_what_is_written_is_read(what: FeederStatus, tmp_path: Path) -> None:
    status.write(tmp_path / "run", what)
    assert status.read(tmp_path / "run") == what


def test_the_file_is_one_object_that_everybody_may_read(tmp_path: Path) -> None:
    status.write(tmp_path, WHOLE)
    file = tmp_path / "feeder.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    document = json.loads(file.read_bytes())
    assert list(document) == [
        "updated_at", "pid", "keys", "kernel", "waiting", "started_boottime_s",
        "unfed_since_boottime_s", "version",
    ]  # fmt: skip
    assert document["version"] == 1
    assert list(document["keys"][0]) == [
        "kind", "serial", "state", "simulated", "bytes_read", "blocks_tested", "blocks_failed", "frames_bad",
        "sessions", "last_fault", "telemetry", "verdict", "reason", "until_boottime_s", "failures",
        "failure_rate", "quarantines",
    ]  # fmt: skip
    assert document["kernel"] == {
        "seeds": 4,
        "seeded_bits": 1024,
        "bytes_passed": 10_000,
        "last_seed_at": 1_700_000_000.25,
        "last_seed_boottime_s": 500.5,
        "entropy_avail_bits": 256,
        "crng_ready": True,
    }


def test_there_may_be_none(tmp_path: Path) -> None:
    assert status.read(tmp_path) is None
    assert status.read(tmp_path / "none") is None


def test_fields_of_a_newer_feeder_are_passed_over(tmp_path: Path) -> None:
    document = dataclasses.asdict(WHOLE)
    document["more"] = [1]
    document["kernel"]["more"] = None
    for key in document["keys"]:
        key["more"] = {}
    (tmp_path / "feeder.json").write_text(json.dumps(document))
    assert status.read(tmp_path) == WHOLE


def test_whole_seconds_are_seconds(tmp_path: Path) -> None:
    document = dataclasses.asdict(WHOLE)
    document["updated_at"] = 5
    document["kernel"] |= {"last_seed_at": 7, "last_seed_boottime_s": 8}
    (tmp_path / "feeder.json").write_text(json.dumps(document))
    found = status.read(tmp_path)
    assert found is not None
    assert (found.updated_at, found.kernel.last_seed_at) == (5.0, 7)
    assert found.seed_age_s(10.0) == 2.0


GARBAGE = {
    "empty": (b"", "not JSON: "),
    "latin-1": (b'{"version": "\xff"}', "not JSON: "),
    "cut short": (b'{"version": 1, "keys"', "not JSON: "),
    "too deep": (b"[" * 100_000, "not JSON: "),
    "a list": (b"[]", "not a feeder's status: "),
    "a number": (b"1", "not a feeder's status: "),
    "nothing": (b"{}", "not a feeder's status: 'version'"),
    "version 2": (b'{"version": 2}', "version 2, where 1 is known"),
    "version '1'": (b'{"version": "1"}', "version '1', where 1 is known"),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage(name: str, tmp_path: Path) -> None:
    content, why = GARBAGE[name]
    (tmp_path / "feeder.json").write_bytes(content)
    with pytest.raises(BadStatus) as caught:
        status.read(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/feeder.json: {why}")
    assert caught.value.remedy == "restart what writes it: virtrng-feeder or virtrng-watch"


WRONG: list[tuple[str, Any]] = [
    ("updated_at", None),
    ("pid", "x"),
    ("pid", float("inf")),
    ("unfed_since_boottime_s", 10**400),
    ("keys", None),
    ("keys", [1]),
    ("keys", {"a": 1}),
    ("kernel", []),
    ("kernel", "seeds"),
    ("kernel.seeds", "4"),
    ("kernel.seeds", 4.5),
    ("kernel.seeds", True),
    ("kernel.last_seed_at", "now"),
    ("kernel.last_seed_boottime_s", "z"),
    ("kernel.last_seed_boottime_s", True),
    ("kernel.last_seed_boottime_s", float("nan")),
    ("kernel.last_seed_boottime_s", float("inf")),
    ("keys.serial", 1),
    ("keys.simulated", 0),
    ("keys.simulated", None),
    ("keys.last_fault", 1),
    ("keys.state", None),
    ("keys.telemetry", None),
    ("keys.telemetry", [1.0]),
    ("keys.telemetry", {"temperature_k": "hot"}),
    ("keys.telemetry", {"temperature_k": None}),
    ("keys.telemetry", {"temperature_k": True}),
    ("keys.telemetry", {"temperature_k": float("nan")}),
    ("keys.verdict", 0),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_value_of_the_wrong_type(field: str, value: Any, tmp_path: Path) -> None:
    document = dataclasses.asdict(WHOLE)
    place, _, name = field.rpartition(".")
    target = document if not place else document["kernel"] if place == "kernel" else document["keys"][0]
    target[name] = value
    (tmp_path / "feeder.json").write_text(json.dumps(document))
    with pytest.raises(BadStatus, match="not a feeder's status: "):
        status.read(tmp_path)


@pytest.mark.parametrize(
    "field", ["pid", "keys", "kernel", "updated_at", "kernel.seeds", "kernel.last_seed_boottime_s"]
)
def test_a_value_that_is_missing(field: str, tmp_path: Path) -> None:
    document = dataclasses.asdict(WHOLE)
    place, _, name = field.rpartition(".")
    del (document["kernel"] if place else document)[name]
    (tmp_path / "feeder.json").write_text(json.dumps(document))
    with pytest.raises(BadStatus, match=f"not a feeder's status: '{name}'"):
        status.read(tmp_path)


def test_a_feeder_that_told_no_telemetry_yet(tmp_path: Path) -> None:
    document = dataclasses.asdict(WHOLE)
    for key in document["keys"]:
        del key["telemetry"], key["verdict"]
    (tmp_path / "feeder.json").write_text(json.dumps(document))
    found = status.read(tmp_path)
    assert found is not None
    assert [(key.serial, key.telemetry, key.verdict) for key in found.keys] == [
        ("a/b", {}, None),
        ("c", {}, None),
    ]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "feeder.json").mkdir()
    with pytest.raises(BadStatus, match="Is a directory"):
        status.read(tmp_path)
    with pytest.raises(FileFailed, match=r"cannot replace .*feeder.json"):
        status.write(tmp_path, EMPTY)


@pytest.mark.parametrize(
    ("last_s", "now_s", "age_s"),
    [(500.5, 500.5, 0.0), (500.5, 530.75, 30.25), (500.5, 500.0, None), (None, 10.0, None), (0.0, 9.0, 9.0)],
)
def test_age_by_the_boot_clock(last_s: float | None, now_s: float, age_s: float | None) -> None:
    # last_seed_at, the wall clock's, plays no part: a step of it makes no seed older or younger.
    for last_at in (0.0, 4e9):
        kernel = dataclasses.replace(KERNEL, last_seed_boottime_s=last_s, last_seed_at=last_at)
        assert dataclasses.replace(WHOLE, kernel=kernel).seed_age_s(now_s) == age_s


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=5,
)
FIELDS = ["version", "updated_at", "pid", "keys", "kernel"]


@settings(derandomize=True, max_examples=scaled(80))
@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5))
def test_whatever_it_holds_is_a_status_or_a_bad_one(
    tmp_path_factory: pytest.TempPathFactory, changes: dict[str, Any]
) -> None:
    run_dir = tmp_path_factory.getbasetemp()
    (run_dir / "feeder.json").write_text(json.dumps(dataclasses.asdict(WHOLE) | changes))
    try:
        found = status.read(run_dir)
    except BadStatus:
        return
    assert found is not None
    assert isinstance(found.seed_age_s(1000.0), float | None)


# --- who runs


def test_who_runs_is_who_holds_the_lock(tmp_path: Path) -> None:
    assert status.holder(tmp_path, status.read(tmp_path)) is None
    lock = files.Lock(tmp_path / status.LOCK_NAME, mode=0o600)
    assert lock.acquire("virtrng feed (pid 7)") is None
    assert in_child(lambda: status.holder(tmp_path, status.read(tmp_path))) == "virtrng feed (pid 7)"
    lock.release()
    assert in_child(lambda: status.holder(tmp_path, status.read(tmp_path))) == "None"


@pytest.mark.parametrize("alive", [True, False])
def test_to_another_user_it_is_whose_process_is_there(open_path: Path, *, alive: bool) -> None:
    lock = files.Lock(open_path / status.LOCK_NAME, mode=0o000)
    assert lock.acquire("somebody") is None
    assert in_child(lambda: status.holder(open_path, status.read(open_path)), nobody=True) == "None", (
        "nothing was written yet"
    )
    pid = os.getpid() if alive else 2**22 + 1  # above the largest pid_max (proc(5))
    status.write(open_path, dataclasses.replace(WHOLE, pid=pid))
    told = f"virtrng feed (pid {pid})" if alive else "None"
    assert in_child(lambda: status.holder(open_path, status.read(open_path)), nobody=True) == told
    lock.release()
