# SPDX-License-Identifier: LGPL-2.1-or-later
"""feeder.json: what the feeder writes, and what policy and `virtrng status` read.

The file is one JSON object, version 1, replaced whole at least once a second
while the feeder runs. `_at` are Unix seconds; `_boottime_s` are seconds of
CLOCK_BOOTTIME, by which every age is counted, so that a step of the wall clock
makes no seed older or younger.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, get_type_hints

from virtrng import files
from virtrng.errors import BadStatus

VERSION = 1
FILE_NAME = "feeder.json"
LOCK_NAME = "feeder.lock"
ABSENT = "absent"

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """One key: what was read from it, and how its blocks fared.

    `state` is that of feeder.life.State, or "absent"; `reason` says why it stands there, and
    `until_boottime_s` until when it does at least. A key that cannot be used (unpaired, busy, no
    permission) is in "probe", one that has stopped itself is "failed"; `serial` is empty where a key
    that is named by its path never told it. `failures` are blocks by the test that they
    failed; `failure_rate` is the moving part of blocks that failed, 0 to 1; `quarantines` are
    those of the last 24 hours. `telemetry` and `verdict` are what the key says of itself:
    keys.base.Telemetry.
    """

    kind: str
    serial: str
    state: str
    simulated: bool
    bytes_read: int
    blocks_tested: int
    blocks_failed: int
    frames_bad: int
    sessions: int
    last_fault: str | None
    telemetry: Mapping[str, float] = field(default_factory=dict)
    verdict: str | None = None
    reason: str | None = None
    until_boottime_s: float | None = None
    failures: Mapping[str, float] = field(default_factory=dict)
    failure_rate: float = 0.0
    quarantines: int = 0

    @classmethod
    def unread(cls, kind: str, serial: str, state: str, reason: str | None) -> "KeyStatus":
        """Return that of a key with which there was no session yet."""
        return cls(
            kind, serial, state, simulated=False, bytes_read=0, blocks_tested=0, blocks_failed=0,
            frames_bad=0, sessions=0, last_fault=reason, reason=reason,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class KernelStatus:
    """The kernel's pool: what was given to it since this feeder started."""

    seeds: int
    seeded_bits: int
    bytes_passed: int
    last_seed_at: float | None
    last_seed_boottime_s: float | None
    entropy_avail_bits: int
    crng_ready: bool = True


@dataclass(frozen=True, slots=True)
class FeederStatus:
    """The whole file."""

    updated_at: float
    pid: int
    keys: tuple[KeyStatus, ...]
    kernel: KernelStatus
    waiting: str | None = None  # why no key is in use, while none is
    started_boottime_s: float | None = None
    unfed_since_boottime_s: float | None = None  # while no key is OK: from when on
    version: int = VERSION

    def seed_age_s(self, boottime_s: float) -> float | None:
        """Seconds since the last seed at CLOCK_BOOTTIME `boottime_s`; None if there was none since boot."""
        last = self.kernel.last_seed_boottime_s
        return None if last is None or last > boottime_s else boottime_s - last


def write(run_dir: Path, status: FeederStatus) -> None:
    """Replace `run_dir`/feeder.json; raises FileFailed."""
    files.replace(run_dir / FILE_NAME, json.dumps(dataclasses.asdict(status)).encode() + b"\n", 0o644)


def read(run_dir: Path) -> FeederStatus | None:
    """Return what the feeder last wrote, or None if there is no such file; raises BadStatus.

    Fields that this version does not know are passed over: a newer feeder may write more.
    """
    return load(run_dir / FILE_NAME, VERSION, "a feeder's status", _made)


def _made(document: dict[str, Any]) -> FeederStatus:
    return FeederStatus(
        updated_at=float(document["updated_at"]),
        pid=int(document["pid"]),
        keys=tuple(known(KeyStatus, entry) for entry in document["keys"]),
        kernel=known(KernelStatus, document["kernel"]),
        waiting=None if document.get("waiting") is None else str(document["waiting"]),
        started_boottime_s=_seconds(document.get("started_boottime_s")),
        unfed_since_boottime_s=_seconds(document.get("unfed_since_boottime_s")),
    )


def holder(run_dir: Path, last: FeederStatus | None) -> str | None:
    """Name the feeder that runs, None if none does; `last` is what was last written.

    Another user than its own can only see whether the process is there that wrote it.
    """
    return writer(run_dir / LOCK_NAME, "virtrng feed", last.pid if last else None)


def load(path: Path, version: int, what: str, made: Callable[[dict[str, Any]], Made]) -> Made | None:
    """Return what `made` makes of a status file's JSON, None if there is no such file; raises BadStatus."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadStatus(str(path), error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:
        raise BadStatus(str(path), f"not JSON: {error}") from error
    try:
        if document["version"] != version:
            raise BadStatus(str(path), f"version {document['version']!r}, where {version} is known")
        return made(document)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadStatus(str(path), f"not {what}: {error}") from error


def writer(lock: Path, command: str, pid: int | None) -> str | None:
    """Name who holds the lock beside a status file, None if nobody does; `pid` is who last wrote the file."""
    try:
        return files.holder(lock)
    except PermissionError:
        alive = pid is not None and os.path.exists(f"/proc/{pid}")
        return f"{command} (pid {pid})" if alive else None


def _seconds(value: object) -> float | None:
    if value is None or _fits(value, float):
        return value  # type: ignore[return-value]
    raise TypeError(f"{value!r} is no number of seconds")


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


T = TypeVar("T", bound=_Dataclass)


def known(kind: type[T], document: dict[str, Any]) -> T:
    """Make a dataclass of JSON: without what it does not know.

    Raises KeyError or TypeError, OverflowError for a number that is too large.
    """
    if not isinstance(document, dict):
        raise TypeError(f"{document!r} is no object")
    types = get_type_hints(kind)
    # What has a default was not there from the beginning: who wrote it may be older.
    optional = {one.name for one in dataclasses.fields(kind) if _has_default(one)}
    names = [name for name in types if name in document or name not in optional]
    for name in names:
        if not _fits(document[name], types[name]):
            raise TypeError(f"{name} is {document[name]!r}")
    return kind(**{name: document[name] for name in names})


def _has_default(one: "dataclasses.Field[Any]") -> bool:
    return one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING


def _fits(value: object, wanted: Any) -> bool:
    if wanted == Mapping[str, float]:
        return isinstance(value, dict) and all(_fits(number, float) for number in value.values())
    if wanted == tuple[int, ...]:
        return isinstance(value, list) and all(_fits(number, int) for number in value)
    if isinstance(value, bool):  # to Python an int
        return bool(wanted is bool)
    if isinstance(value, int | float) and wanted in (float, float | None):
        return isfinite(value)
    return isinstance(value, wanted)
