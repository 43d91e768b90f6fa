# SPDX-License-Identifier: LGPL-2.1-or-later
"""What Prometheus may ask the feeder and the watcher. The only import of prometheus_client.

It is imported only where metrics are configured: it costs 50 ms and 10 MB (0.16).
Names and labels are in virtrng.toml(5); docs/alerts.yml has rules over them.
"""

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import accumulate
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from virtrng import __version__, kernel
from virtrng.scrape import Answer
from virtrng.status import ABSENT, FeederStatus, KernelStatus, KeyStatus
from virtrng.watch_status import LATENCY_BOUNDS_S, STANDINGS, Latency, WatchStatus

# Of feeder.states.State, and what the daemon calls a key that has gone.
STATES = ("probe", "startup", "ok", "suspect", "quarantine", "failed", ABSENT)


def of_feeder(latest: Callable[[], FeederStatus | None]) -> Answer:
    """Return what answers for the feeder; `latest` gives what it last knew, at once."""

    def families() -> Iterator[Metric]:
        if (feeder := latest()) is not None:
            yield from _of_the_feeder(feeder)
            yield from _of_the_kernel(feeder.kernel)
            yield from _of_keys({_name(key): key for key in feeder.keys})

    return _answering(families)


def of_watcher(latest: Callable[[], WatchStatus | None]) -> Answer:
    """Return what answers for the watcher; `latest` gives what it last knew, at once."""

    def families() -> Iterator[Metric]:
        if (watcher := latest()) is not None:
            yield from _of_the_watcher(watcher)
            yield _of_latency(watcher.latency)

    return _answering(families)


def _answering(families: Callable[[], Iterator[Metric]]) -> Answer:
    registry = CollectorRegistry()
    registry.register(_Collector(families))

    def answer(accepted: str) -> tuple[str, bytes]:
        encode, content_type = choose_encoder(accepted)
        return content_type, encode(registry)

    return answer


class _Collector(Collector):
    """Makes the metrics anew at each request; keeps nothing."""

    def __init__(self, families: Callable[[], Iterator[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Give one family after the other, with its samples."""
        yield InfoMetricFamily("virtrng_build", "What runs.", {"version": __version__})
        yield from _of_this_process()
        yield from self._families()


def _of_the_feeder(feeder: FeederStatus) -> Iterator[Metric]:
    pool, now_s = feeder.kernel, kernel.boottime_s()
    yield _counter("virtrng_seeds", "Seeds given to the kernel's pool since this feeder started.", pool.seeds)
    yield _counter("virtrng_seeded_bits", "Entropy credited to the kernel's pool.", pool.seeded_bits)
    yield _counter("virtrng_seed_input_bytes", "Tested bytes that the seeds were made of.", pool.bytes_passed)
    if pool.last_seed_at is not None:
        about = "When the last seed was given, by the host's clock."
        yield _gauge("virtrng_last_seed_timestamp_seconds", about, pool.last_seed_at)
    # Besides the time stamp: that is wrong by as much as this host's clock and Prometheus' differ.
    age_s = feeder.seed_age_s(now_s)
    if age_s is not None:
        about = "Age of the last seed, at this answer; no step of a clock changes it."
        yield _gauge("virtrng_last_seed_age_seconds", about, age_s)
    since_s = feeder.unfed_since_boottime_s
    about = "For how long no key has been feeding; 0 while one is."
    yield _gauge("virtrng_unfed_seconds", about, 0.0 if since_s is None else max(0.0, now_s - since_s))


def _of_the_kernel(pool: KernelStatus) -> Iterator[Metric]:
    about = "Whether the kernel's generator is ready: 0 or 1."
    yield _gauge("virtrng_kernel_crng_ready", about, float(pool.crng_ready))
    about = "The kernel's own count; 256 for ever once it is ready (Linux 5.19 and later)."
    yield _gauge("virtrng_kernel_entropy_available_bits", about, pool.entropy_avail_bits)


def _of_keys(keys: dict[str, KeyStatus]) -> Iterator[Metric]:
    info = InfoMetricFamily("virtrng_key", "The keys.", labels=["key"])
    about = "1 for the state that the key is in, 0 for the others."
    state = GaugeMetricFamily("virtrng_key_state", about, labels=["key", "state"])
    about = "Blocks that failed, by the test; one block can fail several."
    tests = CounterMetricFamily("virtrng_key_test_failures", about, labels=["key", "test"])
    for name, key in keys.items():
        info.add_metric([name], {"kind": key.kind, "simulated": str(key.simulated).lower()})
        for one in dict.fromkeys((*STATES, key.state)):
            state.add_metric([name, one], float(one == key.state))
        for test, count in key.failures.items():
            tests.add_metric([name, test], count)
    yield from (info, state, tests)
    for make, name, about, value_of in _PER_KEY:
        family = make(f"virtrng_key_{name}", about, labels=["key"])
        for key_name, key in keys.items():
            family.add_metric([key_name], value_of(key))
        yield family
    yield from _reported(keys)


_PER_KEY: tuple[
    tuple[type[CounterMetricFamily | GaugeMetricFamily], str, str, Callable[[KeyStatus], float]], ...
] = (
    (CounterMetricFamily, "read_bytes", "Bytes read from it.", lambda key: key.bytes_read),
    (CounterMetricFamily, "blocks_tested", "Blocks of 2,500 bytes tested.", lambda key: key.blocks_tested),
    (CounterMetricFamily, "blocks_failed", "Blocks that failed a test.", lambda key: key.blocks_failed),
    (CounterMetricFamily, "bad_frames", "Frames that were not verified.", lambda key: key.frames_bad),
    (CounterMetricFamily, "sessions", "Sessions begun with it.", lambda key: key.sessions),
    (
        GaugeMetricFamily,
        "failure_rate",
        "Moving part of its blocks that fail, 0 to 1.",
        lambda key: key.failure_rate,
    ),
    (GaugeMetricFamily, "quarantines", "Quarantines within the last 24 hours.", lambda key: key.quarantines),
)


def _reported(keys: dict[str, KeyStatus]) -> Iterator[Metric]:
    """What the keys say of themselves, in Prometheus' units: a gauge for each figure, as counts wrap."""
    families: dict[str, GaugeMetricFamily] = {}
    for key_name, key in keys.items():
        for figure, value in key.telemetry.items():
            name, told = figure, value
            for ending, unit, offset in _UNITS:
                if figure.endswith(ending):
                    name, told = f"{figure.removesuffix(ending)}{unit}", round(value + offset, 3)
            about = f"What the key says of itself: {name.replace('_', ' ')}."
            family = GaugeMetricFamily(f"virtrng_key_reported_{name}", about, labels=["key"])
            families.setdefault(name, family).add_metric([key_name], told)
    yield from families.values()


# Endings of a Telemetry figure, as Prometheus wants them, and what is to be added to the value.
_UNITS = (("_k", "_celsius", -273.15), ("_v", "_volts", 0.0), ("_per_s", "_per_second", 0.0))


def _of_the_watcher(watcher: WatchStatus) -> Iterator[Metric]:
    about = "Whether libvirt is being watched: 0 or 1."
    yield _gauge("virtrng_watch_connected", about, float(watcher.waiting is None))
    about = "Guests, by what the watcher does about them."
    guests = GaugeMetricFamily("virtrng_watch_guests", about, labels=["standing"])
    for standing in dict.fromkeys((*STANDINGS, *watcher.guests)):
        guests.add_metric([standing], watcher.guests.get(standing, 0))
    yield guests
    about = "Guests that have no virtio-rng at all, of whatever standing."
    yield _gauge("virtrng_watch_guests_without_device", about, watcher.without_device)
    yield _counter("virtrng_watch_changes", "Guests changed since this watcher started.", watcher.changes)
    yield _counter("virtrng_watch_failures", "Attempts that failed.", watcher.failures)
    if watcher.last_pass_boottime_s is not None:
        about = "How long ago it last looked at every guest, at this answer."
        age_s = max(0.0, kernel.boottime_s() - watcher.last_pass_boottime_s)
        yield _gauge("virtrng_watch_last_pass_age_seconds", about, age_s)


def _of_latency(latency: Latency) -> Metric:
    bounds = (*map(str, LATENCY_BOUNDS_S), "+Inf")
    return HistogramMetricFamily(
        "virtrng_watch_reconcile_seconds",
        "From the event that told of a guest until it was as wanted.",
        buckets=list(zip(bounds, accumulate(latency.counts), strict=True)),
        sum_value=latency.sum_s,
    )


def _of_this_process() -> Iterator[Metric]:
    """The library's own collector tells nothing where /proc/stat is hidden (ProcSubset=pid)."""
    yield _counter("process_cpu_seconds", "CPU time spent by this process.", time.process_time())
    yield _gauge(
        "process_max_fds", "Limit of open descriptors.", resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    )
    with suppress(OSError):  # no descriptor is left to look with
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        yield _gauge("process_resident_memory_bytes", "Resident memory.", pages * resource.getpagesize())
        yield _gauge("process_open_fds", "Open descriptors.", len(os.listdir("/proc/self/fd")))


def _counter(name: str, about: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(name, about, value=value)


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, about, value=value)


def _name(key: KeyStatus) -> str:
    """The KEY that names it on a command line; whatever its serial is made of, it can be told."""
    return f"{key.kind}:serial={key.serial}".encode(errors="replace").decode()
