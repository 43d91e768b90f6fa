# SPDX-License-Identifier: LGPL-2.1-or-later
"""What Prometheus may ask the feeder. The only import of prometheus_client.

It is imported only where metrics are configured: it costs 50 ms and 10 MB (0.16).
Names and labels are in virtrng.toml(5); docs/alerts.yml has rules over them.
"""

import logging
import os
import resource
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from threading import Thread

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from virtrng import __version__, kernel
from virtrng.config import Listen
from virtrng.errors import MetricsUnavailable
from virtrng.status import ABSENT, FeederStatus, KernelStatus, KeyStatus

log = logging.getLogger(__name__)

# Of feeder.states.State, and what the daemon calls a key that has gone.
STATES = ("probe", "startup", "ok", "suspect", "quarantine", "failed", ABSENT)

# One scraper needs one connection for some milliseconds. Prometheus gives up after 10 s.
CONNECTIONS_MAX = 8
CONNECTION_S = 5.0
REQUEST_BYTES_MAX = 8192
ACCEPT_PAUSE_S = 1.0
CLOSE_S = 1.0

Latest = Callable[[], FeederStatus | None]


class Listener:
    """Serves /metrics from a thread of its own, until `close()`.

    Nothing that a scraper does, or does not do, is waited for: there are at most
    CONNECTIONS_MAX connections, each ends after CONNECTION_S at the latest, and
    none blocks. Whatever goes wrong costs an answer, never the feeder.
    """

    def __init__(self, where: Listen | socket.socket, latest: Latest) -> None:
        """Listen at an address, or on a socket that listens already and is ours from now on.

        `latest` gives what the feeder last knew; it is called in the thread, at each
        request, and must answer at once. Raises MetricsUnavailable.
        """
        listening = _listening(where) if isinstance(where, Listen) else where
        listening.settimeout(0)
        registry = CollectorRegistry()
        registry.register(_Collector(latest))
        self._wake, woken = socket.socketpair()
        server = _Server(listening, woken, registry)
        self._thread = Thread(target=server.run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it, within CLOSE_S; whoever is being served is cut off."""
        self._wake.close()
        self._thread.join(CLOSE_S)


def _listening(where: Listen) -> socket.socket:
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    listening = None
    try:
        listening = socket.socket(family, socket.SOCK_STREAM)
        # The connections of a feeder that has just ended keep nobody from its address.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((where.host, where.port))
        listening.listen(CONNECTIONS_MAX)
    except OSError as error:
        if listening is not None:
            listening.close()
        raise MetricsUnavailable(str(where), error.strerror or str(error)) from error
    return listening


@dataclass(slots=True, eq=False)
class _Connection:
    """One scraper: what it has asked so far, then what it has not taken yet."""

    socket: socket.socket
    ends_at_s: float
    asked: bytearray = field(default_factory=bytearray)
    answer: memoryview | None = None


class _Server:
    """All connections in one loop, none of which ever waits for a single one."""

    def __init__(self, listening: socket.socket, woken: socket.socket, registry: CollectorRegistry) -> None:
        self._listening = listening
        self._woken = woken
        self._registry = registry
        self._selector = selectors.DefaultSelector()
        self._connections: set[_Connection] = set()
        self._accepting = False
        self._accept_at_s = 0.0

    def run(self) -> None:
        """Serve until the other end of `woken` is closed."""
        try:
            self._selector.register(self._woken, selectors.EVENT_READ)
            while self._turn():
                pass
        except Exception:
            log.exception("metrics are no longer served; the feeder goes on")
        finally:
            for connection in list(self._connections):
                self._drop(connection)
            for one in (self._listening, self._woken, self._selector):
                one.close()

    def _turn(self) -> bool:
        """Wait for whatever comes next and do it; False at the end."""
        now_s = time.monotonic()
        for late in [one for one in self._connections if one.ends_at_s <= now_s]:
            self._drop(late)
        self._accept_or_not(now_s)
        wake_at_s = [one.ends_at_s for one in self._connections]
        if not self._accepting:
            wake_at_s.append(max(self._accept_at_s, now_s + ACCEPT_PAUSE_S))
        for key, _ in self._selector.select(min(wake_at_s) - now_s if wake_at_s else None):
            if key.fileobj is self._woken:
                return False
            if key.fileobj is self._listening:
                self._accept()
            else:
                self._serve(key.data)
        return True

    def _accept_or_not(self, now_s: float) -> None:
        """Who cannot be accepted waits in the kernel, and is not heard of meanwhile."""
        wanted = len(self._connections) < CONNECTIONS_MAX and now_s >= self._accept_at_s
        if wanted and not self._accepting:
            self._selector.register(self._listening, selectors.EVENT_READ)
        elif self._accepting and not wanted:
            self._selector.unregister(self._listening)
        self._accepting = wanted

    def _accept(self) -> None:
        try:
            accepted, _ = self._listening.accept()
        except (BlockingIOError, ConnectionAbortedError):  # it has gone again
            return
        except OSError as error:
            # No descriptor is left, or no memory: the kernel would wake us for it again at once.
            self._accept_at_s = time.monotonic() + ACCEPT_PAUSE_S
            log.debug("metrics: cannot accept a connection: %s", error.strerror)
            return
        accepted.settimeout(0)
        connection = _Connection(accepted, time.monotonic() + CONNECTION_S)
        self._connections.add(connection)
        self._selector.register(accepted, selectors.EVENT_READ, connection)

    def _serve(self, connection: _Connection) -> None:
        try:
            if connection.answer is None:
                self._receive(connection)
            if connection.answer is not None:
                connection.answer = connection.answer[connection.socket.send(connection.answer) :]
        except BlockingIOError:
            return
        except OSError:  # the scraper has gone
            self._drop(connection)
            return
        if connection.answer is not None and not connection.answer:
            self._drop(connection)

    def _receive(self, connection: _Connection) -> None:
        """Take what has come; once the request is whole, there is an answer. Raises OSError."""
        received = connection.socket.recv(REQUEST_BYTES_MAX)
        connection.asked += received
        if not received or len(connection.asked) > REQUEST_BYTES_MAX:
            raise ConnectionAbortedError
        if b"\r\n\r\n" in connection.asked or b"\n\n" in connection.asked:
            connection.answer = memoryview(_Request(bytes(connection.asked), self._registry).answer)
            self._selector.modify(connection.socket, selectors.EVENT_WRITE, connection)

    def _drop(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self._selector.unregister(connection.socket)
        connection.socket.close()


class _Request(BaseHTTPRequestHandler):
    """One request that has come whole, and the answer to it: HTTP/1.0, one to a connection."""

    server_version = f"virtrng/{__version__}"
    sys_version = ""

    def __init__(self, asked: bytes, registry: CollectorRegistry) -> None:
        # Not that of the class above: it would read from a socket and wait there.
        self.rfile = BytesIO(asked)
        self.wfile = answer = BytesIO()
        self.client_address = ("", 0)
        self._registry = registry
        self.handle_one_request()
        self.answer = answer.getvalue()

    def do_GET(self) -> None:
        """Answer with the metrics, in the format that is asked for."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, explain="there is /metrics")
            return
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        try:
            body = encode(self._registry)
        except Exception:
            log.exception("the metrics cannot be told; the feeder goes on")
            self.send_error(500)
            return
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815  the class above looks for these names

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing: a scraper asks every few seconds."""


class _Collector(Collector):
    """Makes the metrics anew at each request, of what the feeder last knew; keeps nothing."""

    def __init__(self, latest: Latest) -> None:
        self._latest = latest

    def collect(self) -> Iterator[Metric]:
        """Give one family after the other, with its samples."""
        yield InfoMetricFamily("virtrng_build", "What runs.", {"version": __version__})
        yield from _of_this_process()
        feeder = self._latest()
        if feeder is not None:
            yield from _of_the_feeder(feeder)
            yield from _of_the_kernel(feeder.kernel)
            yield from _of_keys({_name(key): key for key in feeder.keys})


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
