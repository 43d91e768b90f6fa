# SPDX-License-Identifier: LGPL-2.1-or-later
"""The host's part of `virtrng status`: is it being fed, by what, when last, is it healthy."""

import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass

from virtrng import kernel, status
from virtrng.cli import status_key, status_watch
from virtrng.cli.output import Fact, duration, listed, plural
from virtrng.cli.status_watch import Watcher
from virtrng.config import Config
from virtrng.errors import BadStatus
from virtrng.status import FeederStatus, KeyStatus

# The feeder replaces its file each second; beyond this many it has had trouble doing so.
LATE_S = 10.0


@dataclass(frozen=True, slots=True)
class Host:
    """What was found at one moment."""

    settings: Config
    holder: str | None  # the feeder that runs
    feeder: FeederStatus | None  # what it last wrote
    broken: BadStatus | None  # why that could not be read
    crng_ready: bool
    boottime_s: float
    unix_s: float
    watcher: Watcher | None

    @property
    def seed_age_s(self) -> float | None:
        """Seconds since the last seed; None if there was none since boot."""
        return self.feeder.seed_age_s(self.boottime_s) if self.feeder else None

    @property
    def fed_by(self) -> list[KeyStatus]:
        """The keys whose bytes go into the seeds now."""
        if self.holder is None or self.feeder is None:
            return []
        return [key for key in self.feeder.keys if key.state == "ok"]

    @property
    def fed(self) -> bool:
        """Whether a hardware key feeds, and the last seed is not old, as far as that is known now."""
        age_s = self.seed_age_s
        hardware = any(not key.simulated for key in self.fed_by)
        young = age_s is not None and age_s <= self.settings.feeder.stale_seed_s
        return hardware and young and self.late_s is None

    @property
    def late_s(self) -> float | None:
        """How old the feeder's last word is, where that is too old; None where it is not."""
        if self.holder is None or self.feeder is None:
            return None
        age_s = self.unix_s - self.feeder.updated_at
        return age_s if age_s > LATE_S else None


def look(settings: Config) -> Host:
    """Look at everything, change nothing; never raises."""
    run_dir = settings.paths.run_dir
    feeder, broken = None, None
    try:
        feeder = status.read(run_dir)
    except BadStatus as error:
        broken = error
    return Host(
        settings=settings,
        holder=status.holder(run_dir, feeder),
        feeder=feeder,
        broken=broken,
        crng_ready=kernel.crng_ready(),
        boottime_s=kernel.boottime_s(),
        unix_s=time.time(),
        watcher=status_watch.look(settings.paths.watch_dir),
    )


def document(host: Host) -> dict[str, object]:
    """Return the part of the JSON document that is about the host."""
    return {
        "feeder": {
            "running": host.holder is not None,
            "holder": host.holder,
            "fed": host.fed,
            "fed_by": [f"{key.kind}:serial={key.serial}" for key in host.fed_by],
            "last_seed_age_s": host.seed_age_s,
            "status": dataclasses.asdict(host.feeder) if host.feeder else None,
        },
        "pool": {"ready": host.crng_ready},
        "watcher": status_watch.document(host.watcher),
    }


def facts(host: Host) -> list[Fact]:
    """Return what a person reads, the answer first."""
    return [_fed(host), _feeder(host), *_keys(host), _pool(host), *status_watch.facts(host.watcher)]


def _fed(host: Host) -> Fact:
    """Answer the first question in one line."""
    age_s, last = host.seed_age_s, _last_seed(host)
    by = listed([status_key.name(key) for key in host.fed_by])
    news = None
    if host.broken:
        text, tone = f"not known: {host.broken}", "doubtful"
    elif host.holder is None:
        text, tone, news = f"no: no feeder runs{last}", "bad", "no: no feeder runs"
    elif host.feeder is None:
        text, tone = "not yet: the feeder has written no status", "doubtful"
    elif host.late_s is not None:
        news = "not known: the feeder no longer writes its status"
        text, tone = f"not known: the feeder last wrote its status {duration(host.late_s)} ago", "doubtful"
    elif age_s is None:
        text, tone = "not yet: no seed was given since the feeder started", "doubtful"
    elif age_s > host.settings.feeder.stale_seed_s:
        news = f"no: no seed for {duration(host.settings.feeder.stale_seed_s)}"
        text, tone = f"no: the last seed is {duration(age_s)} old", "bad"
    elif not by:
        text, tone, news = f"no longer: no key feeds{_unfed(host)}{last}", "bad", "no longer: no key feeds"
    elif not host.fed:
        news = f"only by {by}, with a credit of 0"
        text, tone = f"{news}{last}", "bad"
    else:
        news = f"yes, by {by}"
        text, tone = f"{news}{last} (every {host.settings.feeder.interval_s} s)", "good"
    return Fact("fed", text, tone, news or text)


def _last_seed(host: Host) -> str:
    age_s = host.seed_age_s
    return "" if age_s is None else f"; last seed {duration(age_s)} ago"


def _unfed(host: Host) -> str:
    since_s = host.feeder.unfed_since_boottime_s if host.feeder else None
    return "" if since_s is None else f" for {duration(max(0.0, host.boottime_s - since_s))}"


def _feeder(host: Host) -> Fact:
    if host.holder is None:
        return Fact("feeder", "not running ('systemctl start virtrng-feeder', or 'virtrng feed')", "bad")
    if host.feeder is None:
        return Fact("feeder", f"{host.holder}; it has written no status", "doubtful")
    pool, started_s = host.feeder.kernel, host.feeder.started_boottime_s
    runs = "" if started_s is None else f", for {duration(max(0.0, host.boottime_s - started_s))}"
    figures = f"{plural(pool.seeds, 'seed')}, {plural(pool.seeded_bits, 'bit')} credited"
    made_of = f", made of {plural(pool.bytes_passed, 'tested byte')}"
    return Fact("feeder", f"{host.holder}{runs}: {figures}{made_of}", news=f"{host.holder}: {figures}")


def _keys(host: Host) -> list[Fact]:
    feeder = host.feeder
    if feeder is None or (host.holder is None and not feeder.keys):
        return []
    if not feeder.keys:
        return [Fact("key", f"none; the feeder waits: {feeder.waiting or 'it has just started'}", "bad")]
    running = host.holder is not None
    return [fact for key in feeder.keys for fact in status_key.facts(key, host.boottime_s, running=running)]


def _pool(host: Host) -> Fact:
    if not host.crng_ready:
        text = "the kernel's generator is not ready yet: what reads /dev/random or calls getrandom() waits"
        return Fact("pool", text, "bad")
    alone = "" if host.fed else ": guests go on from it, without a key's help"
    return Fact("pool", f"the kernel's generator is ready{alone}")


def problems(host: Host) -> Iterator[str]:
    """Give each thing that is not as it should be: one line, with the remedy behind the semicolon."""
    if host.broken:
        yield f"{host.broken}; {host.broken.remedy}"
    elif host.holder is None:
        yield "no feeder runs; start it: systemctl start virtrng-feeder"
    elif host.feeder is None:
        yield "the feeder has written no status; its log tells why: journalctl -u virtrng-feeder"
    elif host.late_s is not None:  # what stands in it is old, whatever it is
        run_dir = host.settings.paths.run_dir
        yield f"feeder.json is {duration(host.late_s)} old; see whether the disk of {run_dir} is full"
    else:
        yield from _feeding_problems(host, host.feeder)
        pinned = {one.serial for one in host.settings.keys}
        for key in host.feeder.keys:
            if problem := status_key.problem(key, pinned=key.serial in pinned):
                yield problem
    if not host.crng_ready:
        yield "the kernel's generator is not ready; it will be with the first seed that a key gives"
    yield from status_watch.problems(host.watcher)


def _feeding_problems(host: Host, feeder: FeederStatus) -> Iterator[str]:
    age_s = host.seed_age_s
    if not host.fed_by:
        why = f" ({feeder.waiting})" if feeder.waiting else ""
        yield f"no key feeds{_unfed(host)}{why}; 'virtrng keys' shows what stands in its way"
    elif age_s is None:
        yield "no seed yet; if it stays so, the feeder's log tells why: journalctl -u virtrng-feeder"
    elif age_s > host.settings.feeder.stale_seed_s:
        yield f"no seed for {duration(age_s)}; the feeder's log tells why: journalctl -u virtrng-feeder"
    elif all(key.simulated for key in host.fed_by):
        yield "only a simulated key feeds, with a credit of 0; plug in a hardware key"
