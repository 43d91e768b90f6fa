# SPDX-License-Identifier: LGPL-2.1-or-later
"""watch.json: what the watcher writes, and what `virtrng status` and the metrics read.

The file is one JSON object, version 1, replaced whole when anything in it changes. It lies beside
feeder.json's directory, in `run_dir`-watch, which is the watcher's alone.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from virtrng import files
from virtrng.status import known, load, writer

VERSION = 1
FILE_NAME = "watch.json"
LOCK_NAME = "watch.lock"

# What the watcher does about a guest: see WatchStatus.
STANDINGS = (
    "managed", "foreign", "unwanted", "elsewhere", "before", "off",
    "contested", "refused", "failed", "waiting",
)  # fmt: skip

# Upper bounds, in seconds, of how long a guest took from the event that told of it until it was as wanted.
LATENCY_BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0, 30.0)


@dataclass(frozen=True, slots=True)
class Noted:
    """A guest that is not as it should be: `word` is contested, refused, failed or waiting."""

    name: str
    uuid: str
    word: str
    why: str


@dataclass(frozen=True, slots=True)
class Latency:
    """How long it took: `counts` has one for each of LATENCY_BOUNDS_S, and one for what took longer."""

    counts: tuple[int, ...] = (0,) * (len(LATENCY_BOUNDS_S) + 1)
    sum_s: float = 0.0


@dataclass(frozen=True, slots=True)
class WatchStatus:
    """The whole file.

    `waiting` is why libvirt is not being watched just now, None while it is. `guests` counts them by what
    the watcher does about them: managed, foreign, unwanted (disabled), elsewhere (another program's),
    before (there before the watcher), off (manage = "off"), contested, refused, failed, waiting (busy).
    `without_device` counts those, of all, that have no virtio-rng at all. `changes` and `failures` are
    counted since this watcher started, `last_pass_boottime_s` is when it last looked at every guest.
    """

    updated_at: float
    pid: int
    uri: str
    waiting: str | None = None
    guests: Mapping[str, float] = field(default_factory=dict)
    without_device: int = 0
    changes: int = 0
    failures: int = 0
    last_pass_boottime_s: float | None = None
    noted: tuple[Noted, ...] = ()
    latency: Latency = Latency()
    version: int = VERSION


def write(watch_dir: Path, status: WatchStatus) -> None:
    """Replace `watch_dir`/watch.json; raises FileFailed."""
    files.replace(watch_dir / FILE_NAME, json.dumps(dataclasses.asdict(status)).encode() + b"\n", 0o644)


def read(watch_dir: Path) -> WatchStatus | None:
    """Return what the watcher last wrote, None if there is no such file; raises BadStatus.

    Fields that this version does not know are passed over: a newer watcher may write more.
    """
    return load(watch_dir / FILE_NAME, VERSION, "a watcher's status", _made)


def _made(document: dict[str, Any]) -> WatchStatus:
    noted, latency = document.pop("noted", []), document.pop("latency", None)
    if not isinstance(noted, list):
        raise TypeError(f"noted is {noted!r}")
    return dataclasses.replace(
        known(WatchStatus, document),
        noted=tuple(known(Noted, one) for one in noted),
        latency=Latency() if latency is None else _latency(latency),
    )


def _latency(document: dict[str, Any]) -> Latency:
    made = known(Latency, document)
    if len(made.counts) != len(LATENCY_BOUNDS_S) + 1:
        raise ValueError(f"latency.counts are {len(made.counts)}")
    return dataclasses.replace(made, counts=tuple(made.counts))


def holder(watch_dir: Path, last: WatchStatus | None) -> str | None:
    """Name the watcher that runs, None if none does; `last` is what was last written.

    Another user than its own can only see whether the process is there that wrote it.
    """
    return writer(watch_dir / LOCK_NAME, "virtrng watch", last.pid if last else None)
