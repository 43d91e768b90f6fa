# SPDX-License-Identifier: LGPL-2.1-or-later
"""The watcher: libvirt tells of guests, and each is brought to policy.

One thread listens, and puts whatever it hears of on a list; some workers take guests from it. Each has a
connection of its own: libvirtd serves five calls of one client at a time (max_client_requests), and a guest
whose QEMU hangs keeps its caller for as long as it does. So nobody waits for anybody else: the main thread
does nothing but serve the watchdog and write down what is known. Should as many QEMUs hang as may be
changed at a time as they run (LIVE), all definitions are still seen to; the other guests that run wait until
one of those goes on, or is destroyed.
"""

import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread

from virtrng import files, service, watch_status
from virtrng.config import Config
from virtrng.domain import hypervisor, manage
from virtrng.domain.happenings import Happening
from virtrng.domain.hypervisor import Hypervisor
from virtrng.domain.ledger import Ledger
from virtrng.domain.steward import Steward
from virtrng.domain.worklist import Job, Worklist
from virtrng.errors import (
    DomainBusy,
    FileFailed,
    HypervisorDenied,
    HypervisorFault,
    NoHypervisor,
    NoSuchDomain,
    Refused,
    VirtrngError,
    WatcherRunning,
)
from virtrng.watch_status import WatchStatus

log = logging.getLogger(__name__)

# At so many QEMUs at a time may there be something to be changed: a call to one that hangs keeps one of the
# twenty workers that libvirtd has for all its clients (max_workers), even after its caller has gone.
LIVE = 8
WORKERS = LIVE + 2
# Whatever no event told of: a device that was detached from a definition (libvirt 9.0 tells of none).
LOOK_AT_ALL_S = 600.0
RECONNECT_S = (0.2, 0.5, 1.0, 2.0, 5.0)
# A guest that failed is looked at again after 2 s, 4 s … at most this long.
AGAIN_S = 2.0
AGAIN_MAX_S = 300.0
# A busy one goes on by an event (RESUMED), or by none (a save that was cancelled).
BUSY_AGAIN_MAX_S = 10.0
# Of what somebody is still at, most is over by then. A migration is over some milliseconds after its guest
# runs: before, that seems to be a transient one.
SETTLED_S = 1.0
# The event loop turns once a second.
STILL_S = 10.0
WRITE_S = 0.5
STOP_S = 5.0

_LASTING_UUID = 'host_uuid_source = "machine-id" in libvirtd.conf, or virtqemud.conf, is one that lasts'
_STOP, _LOOK_AT_ALL, _RELOAD, _CHANGED = "stop", "look at all", "reload", "changed"


class Watcher:
    """Watches the guests of one libvirt until it is told to `stop`. `load` reads the configuration anew."""

    def __init__(self, uri: str, config: Config, load: Callable[[], Config]) -> None:
        """Connect to nothing yet."""
        self._uri = uri
        self._paths = config.paths
        self._load = load
        self._inbox: SimpleQueue[str | VirtrngError] = SimpleQueue()
        self._orders: SimpleQueue[object] = SimpleQueue()
        self._ledger = Ledger(uri, lambda: self._inbox.put(_CHANGED))
        self._steward = Steward(config.domains, sleep=None)
        self._worklist = Worklist(live=LIVE)
        self._host: str | None = None
        self._failures: dict[str, int] = {}
        self._attempts = 0
        self._turned_s = time.monotonic()
        self._summary = ""

    @property
    def latest(self) -> WatchStatus:
        """What is known now."""
        return self._ledger.status()

    def stop(self) -> None:
        """Have `run` end. A signal handler may call it, as it may `reload`: SimpleQueue.put is reentrant."""
        self._inbox.put(_STOP)

    def reload(self) -> None:
        """Have the configuration read anew, and every guest looked at."""
        self._inbox.put(_RELOAD)

    def run(self) -> None:
        """Watch. Raises WatcherRunning, BadMemory, and FileFailed where it can remember nothing."""
        lock = files.Lock(self._paths.watch_dir / watch_status.LOCK_NAME)
        if holder := lock.acquire(f"virtrng watch (pid {os.getpid()})"):
            raise WatcherRunning(holder)
        hypervisor.run_events(self._turned)
        threads = [Thread(target=self._listen, name="listener", daemon=True)]
        threads += [
            Thread(target=self._work, name=f"worker {number}", daemon=True) for number in range(WORKERS)
        ]
        for thread in threads:
            thread.start()
        service.ready()
        try:
            self._serve()
        finally:
            service.stopping()
            self._orders.put(_STOP)
            self._worklist.close()
            ends_s = time.monotonic() + STOP_S
            for thread in threads:  # one that waits for a QEMU that hangs is left behind
                thread.join(max(0.0, ends_s - time.monotonic()))
            self._write()
            lock.release()

    def _turned(self) -> None:
        self._turned_s = time.monotonic()

    def _serve(self) -> None:
        """Do what the inbox says until it says stop. Raises what the listener cannot go on after."""
        alive_s = (service.watchdog_s() or 3 * STILL_S) / 3
        write_at_s: float | None = None
        while True:
            now_s = time.monotonic()
            if now_s - self._turned_s < STILL_S:
                service.alive()
            self._ledger.look_for_slow()
            if write_at_s is not None and now_s >= write_at_s:
                self._write()
                write_at_s = None
            due_s = alive_s if write_at_s is None else write_at_s - now_s
            try:
                message = self._inbox.get(timeout=max(0.0, min(alive_s, due_s)))
            except Empty:
                continue
            if isinstance(message, VirtrngError):
                raise message
            if message == _STOP:
                return
            if message == _RELOAD:
                self._reload()
            elif write_at_s is None:
                write_at_s = now_s + WRITE_S

    def _reload(self) -> None:
        try:
            self._steward.settings = self._load().domains
        except VirtrngError as error:
            log.error("%s; the configuration stays as it was\n  %s", error, error.remedy)
        self._orders.put(_LOOK_AT_ALL)

    def _write(self) -> None:
        """Write down what is known; a disk that is full costs that alone."""
        summary, status = self._ledger.summary(), self._ledger.status()
        service.says(summary)
        looked = self._worklist.idle and not status.waiting and status.last_pass_boottime_s is not None
        if looked and summary != self._summary:
            log.info("%s", summary)
            self._summary = summary
        try:
            watch_status.write(self._paths.watch_dir, status)
        except FileFailed as error:
            log.debug("%s", error)

    def _listen(self) -> None:
        """Be connected as long as possible, and connect again."""
        while True:
            try:
                with Hypervisor(self._uri) as connection:
                    if self._hear(connection):
                        return
            except (NoHypervisor, HypervisorDenied, HypervisorFault) as error:
                self._ledger.waits(error)
            except VirtrngError as error:
                self._inbox.put(error)
                return
            except Exception:
                log.exception("listening failed; it is begun anew")
            self._worklist.clear()
            pause_s = RECONNECT_S[min(self._attempts, len(RECONNECT_S) - 1)]
            self._attempts += 1
            with suppress(Empty):
                if self._orders.get(timeout=pause_s) is _STOP:
                    return

    def _hear(self, connection: Hypervisor) -> bool:
        """Listen until it is told to stop (True). Raises NoHypervisor once the connection is closed."""
        this = object()  # what an older connection's end still says is not about this one
        self._remember(connection)
        connection.listen(self._happened, lambda: self._orders.put(this))
        self._ledger.waits(None)
        self._attempts = 0
        while True:
            self._look_at_all(connection)
            order = None
            with suppress(Empty):
                while (order := self._orders.get(timeout=LOOK_AT_ALL_S)) not in (_STOP, this, _LOOK_AT_ALL):
                    pass
            if order is _STOP:
                return True
            if order is this:
                raise NoHypervisor(self._uri, "it has closed the connection")

    def _remember(self, connection: Hypervisor) -> None:
        """Learn which guests there were before. Raises BadMemory, FileFailed, and what libvirt raises."""
        host, before = manage.host_uuid(connection.capabilities()), self._host
        if before and before != host:
            # Its firmware has none, and libvirtd has made one up when it started: it is no other host.
            log.warning("libvirt tells another UUID of its host than before\n  %s", _LASTING_UUID)
            known = self._steward.remembered
            self._steward.remembered = manage.remember(self._paths.state_dir, host, lambda: known)
        else:
            self._steward.remembered = manage.remember(
                self._paths.state_dir, host, lambda: [guest.uuid for guest in connection.guests()]
            )
        self._host = host

    def _look_at_all(self, connection: Hypervisor) -> None:
        known = self._ledger.known()  # before: whatever is defined meanwhile is not forgotten
        uuids = [guest.uuid for guest in connection.guests()]
        for uuid in known.difference(uuids):
            self._forget(uuid)
        for uuid in uuids:
            self._worklist.add(uuid)
        self._ledger.looked_at_all()

    def _happened(self, uuid: str, happening: Happening) -> None:
        if happening in (Happening.UNDEFINED, Happening.REVERTED):  # nobody has taken its device away
            self._steward.forget(uuid)
        if happening in (Happening.ARRIVED, Happening.WISHED):
            self._worklist.add(uuid, after_s=SETTLED_S)
        else:
            self._worklist.tell(uuid)

    def _work(self) -> None:
        """Look at one guest after the other."""
        connection: Hypervisor | None = None
        while job := self._worklist.take():
            try:
                if connection and not connection.alive:
                    connection.close()
                    connection = None
                if connection is None:
                    connection = Hypervisor(self._uri)
                    connection.keep_alive()
                self._look_after(connection, job)
            except (NoHypervisor, HypervisorDenied):
                # The listener says so, and looks at every guest when it is connected again.
                self._worklist.add(job.uuid, after_s=AGAIN_S)
            except Exception:
                log.exception("looking after %s failed", job.uuid)
                self._worklist.add(job.uuid, after_s=AGAIN_MAX_S)
            finally:
                self._ledger.ends(job.uuid)
                self._worklist.done(job.uuid)
        if connection:
            connection.close()

    def _look_after(self, connection: Hypervisor, job: Job) -> None:
        """Look at one guest, and see to it that it is looked at again where that is needed."""
        name = job.uuid
        try:
            guest = connection.guest(job.uuid)
            name = guest.name
            self._ledger.begins(name, job.uuid)
            looked = self._steward.look_after(guest, live=job.live)
        except NoSuchDomain:
            self._forget(job.uuid)
        except (NoHypervisor, HypervisorDenied):
            raise
        except VirtrngError as error:
            self._ledger.failed(name, job.uuid, error)
            self._again(job.uuid, error)
        else:
            done = not (looked.rest or looked.outcome.error)
            took_s = time.monotonic() - job.since_s if done and job.since_s is not None else None
            self._ledger.looked(looked, took_s)
            self._again(job.uuid, looked.outcome.error)
            if looked.rest:
                self._worklist.leave(job)

    def _again(self, uuid: str, error: VirtrngError | None) -> None:
        if error is None or isinstance(error, Refused):  # what refuses it does not pass by itself
            self._failures.pop(uuid, None)
            return
        self._failures[uuid] = failures = self._failures.get(uuid, 0) + 1
        most_s = BUSY_AGAIN_MAX_S if isinstance(error, DomainBusy) else AGAIN_MAX_S
        self._worklist.add(uuid, after_s=min(AGAIN_S * 2.0 ** min(failures - 1, 16), most_s))

    def _forget(self, uuid: str) -> None:
        self._ledger.forget(uuid)
        self._steward.forget(uuid)
        self._failures.pop(uuid, None)
