# SPDX-License-Identifier: LGPL-2.1-or-later
"""The listener that Prometheus asks: sockets and HTTP. What it is told, metrics.py makes."""

import logging
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from threading import Thread

from virtrng import __version__
from virtrng.config import Listen
from virtrng.errors import MetricsUnavailable

log = logging.getLogger(__name__)

# One scraper needs one connection for some milliseconds. Prometheus gives up after 10 s.
CONNECTIONS_MAX = 8
CONNECTION_S = 5.0
REQUEST_BYTES_MAX = 8192
ACCEPT_PAUSE_S = 1.0
CLOSE_S = 1.0

# Makes content type and body of what a scraper accepts (the header of that name).
Answer = Callable[[str], tuple[str, bytes]]


class Listener:
    """Serves /metrics from a thread of its own, until `close()`.

    Nothing that a scraper does, or does not do, is waited for: there are at most
    CONNECTIONS_MAX connections, each ends after CONNECTION_S at the latest, and
    none blocks. Whatever goes wrong costs an answer, never the service.
    """

    def __init__(self, where: Listen | socket.socket, answer: Answer) -> None:
        """Listen at an address, or on a socket that listens already and is ours from now on.

        `answer` is called in the thread, at each request, and must answer at once.
        Raises MetricsUnavailable.
        """
        listening = _listening(where) if isinstance(where, Listen) else where
        listening.settimeout(0)
        self._wake, woken = socket.socketpair()
        server = _Server(listening, woken, answer)
        self._thread = Thread(target=server.run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it, within CLOSE_S; whoever is being served is cut off."""
        self._wake.close()
        self._thread.join(CLOSE_S)


@contextmanager
def serving(where: Listen | socket.socket, answer: Answer) -> Iterator[None]:
    """Serve while the block runs; where that cannot be, it is logged, and the block runs without."""
    with ExitStack() as stack:
        try:
            stack.enter_context(closing(Listener(where, answer)))
        except MetricsUnavailable as error:
            log.error("%s; the service goes on without them\n  %s", error, error.remedy)
        yield


def _listening(where: Listen) -> socket.socket:
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    listening = None
    try:
        listening = socket.socket(family, socket.SOCK_STREAM)
        # The connections of a service that has just ended keep nobody from its address.
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

    def __init__(self, listening: socket.socket, woken: socket.socket, answer: Answer) -> None:
        self._listening = listening
        self._woken = woken
        self._answer = answer
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
            log.exception("metrics are no longer served; the service goes on")
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
            connection.answer = memoryview(_Request(bytes(connection.asked), self._answer).answer)
            self._selector.modify(connection.socket, selectors.EVENT_WRITE, connection)

    def _drop(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        self._selector.unregister(connection.socket)
        connection.socket.close()


class _Request(BaseHTTPRequestHandler):
    """One request that has come whole, and the answer to it: HTTP/1.0, one to a connection."""

    server_version = f"virtrng/{__version__}"
    sys_version = ""

    def __init__(self, asked: bytes, answer: Answer) -> None:
        # Not that of the class above: it would read from a socket and wait there.
        self.rfile = BytesIO(asked)
        self.wfile = written = BytesIO()
        self.client_address = ("", 0)
        self._answer = answer
        self.handle_one_request()
        self.answer = written.getvalue()

    def do_GET(self) -> None:
        """Answer with the metrics, in the format that is asked for."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, explain="there is /metrics")
            return
        try:
            content_type, body = self._answer(self.headers.get("Accept", ""))
        except Exception:
            log.exception("the metrics cannot be told; the service goes on")
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
