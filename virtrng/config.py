# SPDX-License-Identifier: LGPL-2.1-or-later
"""/etc/virtrng/virtrng.toml as frozen dataclasses.

Every value is optional and has its default here. A key that is not known, or a
value that is out of range, is an error that names its path in the file, what
stands there, and what is allowed.
"""

import tomllib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from virtrng.errors import ConfigError, ConfigUnreadable

T = TypeVar("T")

DEFAULT_FILE = Path("/etc/virtrng/virtrng.toml")

# QEMU aborts on a read error of its source and hangs at its end of file
# (backends/rng-random.c, 7.2 and 10.0): of all files only these two give neither.
SAFE_SOURCES = ("/dev/random", "/dev/urandom")
REQUIRE = ("off", "warn", "refuse")
FOREIGN = ("keep", "replace")
MANAGE = ("new", "all", "off")


@dataclass(frozen=True, slots=True)
class Rate:
    """What a guest may draw: `bytes` in every `period_ms`, as libvirt's <rate> has it (both u32)."""

    bytes: int
    period_ms: int = 1000

    def __str__(self) -> str:
        return f"{self.bytes} B/{self.period_ms} ms"


@dataclass(frozen=True, slots=True)
class FeederSettings:
    """[feeder]: the seed clock."""

    interval_s: int = 10
    reseed: bool = True

    @property
    def stale_seed_s(self) -> float:
        """From this age on a seed is old: to the hook's require_feeder, and to 'virtrng status'."""
        return max(60.0, 3.0 * self.interval_s)


@dataclass(frozen=True, slots=True)
class KeySettings:
    """[[key]]: one key, pinned or tuned."""

    serial: str
    min_entropy: float | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """[[domains.rule]]: what differs for the guests that it matches; None leaves it as it is."""

    match: str | None = None
    os: str | None = None
    manage: str | None = None
    source: str | None = None
    rate: Rate | None = None
    foreign: str | None = None
    require: str | None = None


@dataclass(frozen=True, slots=True)
class DomainSettings:
    """[domains]: who gets a device, which, and what the hook insists on."""

    manage: str = "new"
    foreign: str = "keep"
    source: str = "/dev/random"
    rate: Rate = Rate(4096, 1000)
    require: str = "off"
    require_feeder: bool = False
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True, slots=True)
class Listen:
    """A TCP address, as `host:port` or `[host]:port` writes it."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """[metrics]: where Prometheus may ask the feeder, and the watcher; nowhere by default."""

    listen: Listen | None = None
    watch_listen: Listen | None = None


@dataclass(frozen=True, slots=True)
class PathSettings:
    """[paths]: for tests and unusual systems."""

    run_dir: Path = Path("/run/virtrng")
    state_dir: Path = Path("/var/lib/virtrng-watch")

    @property
    def watch_dir(self) -> Path:
        """What the watcher has in the place of run_dir, which is the feeder's alone."""
        return self.run_dir.with_name(f"{self.run_dir.name}-watch")


@dataclass(frozen=True, slots=True)
class Config:
    """The whole file."""

    feeder: FeederSettings = FeederSettings()
    keys: tuple[KeySettings, ...] = ()
    domains: DomainSettings = DomainSettings()
    metrics: MetricsSettings = MetricsSettings()
    paths: PathSettings = PathSettings()


DEFAULTS = Config()


def load(file: Path | None = None) -> Config:
    """Read `file`, or the default file where it exists.

    Raises ConfigUnreadable when it cannot be read or is not TOML (a missing
    default file is not an error, a missing named one is), ConfigError when a
    value is not allowed.
    """
    path = file or DEFAULT_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        if file is None:
            return Config()
        raise ConfigUnreadable(str(path), "no such file") from error
    except OSError as error:
        raise ConfigUnreadable(str(path), error.strerror or str(error)) from error
    return parse(content, str(path))


def parse(content: bytes, file: str) -> Config:
    """Turn the text of a configuration into values; `file` is its name for messages."""
    try:
        document = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # a number of too many digits, tables nested too deeply
        raise ConfigUnreadable(file, f"not TOML: {error}") from error
    top = _Table(document, file, "")
    config = Config(
        feeder=_feeder(top.table("feeder")),
        keys=tuple(_key(table) for table in top.tables("key")),
        domains=_domains(top.table("domains")),
        metrics=_metrics(top.table("metrics")),
        paths=_paths(top.table("paths")),
    )
    top.close()
    return config


@dataclass(slots=True)
class _Table:
    """A TOML table that knows where it stands, and which of its keys were asked for."""

    values: dict[str, Any]
    file: str
    path: str
    known: set[str] = field(default_factory=set)
    children: list["_Table"] = field(default_factory=list)

    def error(self, key: str, value: object, allowed: str) -> ConfigError:
        return ConfigError(self.file, self._where(key), _shown(value), allowed)

    def _where(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def _child(self, key: str, values: object, path: str) -> "_Table":
        if not isinstance(values, dict):
            raise self.error(key, values, "a table")
        child = _Table(values, self.file, path)
        self.children.append(child)
        return child

    def table(self, key: str) -> "_Table":
        self.known.add(key)
        return self._child(key, self.values.get(key, {}), self._where(key))

    def tables(self, key: str) -> Iterator["_Table"]:
        self.known.add(key)
        entries = self.values.get(key, [])
        if not isinstance(entries, list):
            raise self.error(key, entries, f"tables written as [[{self._where(key)}]]")
        for index, entry in enumerate(entries):
            yield self._child(key, entry, f"{self._where(key)}[{index}]")

    def value(self, key: str, default: T, allowed: str, check: Callable[[Any], bool]) -> T:
        self.known.add(key)
        if key not in self.values:
            return default
        found = self.values[key]
        if not check(found):
            raise self.error(key, found, allowed)
        return found  # type: ignore[no-any-return]

    def close(self) -> None:
        """Refuse keys that nobody asked for, here and below."""
        for key in self.values:
            if key not in self.known:
                raise ConfigError(
                    self.file, self._where(key), "not a setting", ", ".join(sorted(self.known)) or "nothing"
                )
        for child in self.children:
            child.close()


def _feeder(table: _Table) -> FeederSettings:
    return FeederSettings(
        interval_s=table.value(
            "interval_s",
            DEFAULTS.feeder.interval_s,
            "a whole number of seconds, 1 to 300",
            _is_between(1, 300),
        ),
        reseed=table.value("reseed", DEFAULTS.feeder.reseed, "true or false", _is_bool),
    )


def _key(table: _Table) -> KeySettings:
    serial = table.value("serial", "", "the serial of the key (it must be given)", _is_text)
    if not serial:
        raise table.error("serial", serial, "the serial of the key (it must be given)")
    return KeySettings(
        serial=serial,
        min_entropy=table.value(
            "min_entropy",
            None,
            "assessed bits per bit, above 0 and at most 1",
            lambda found: isinstance(found, int | float) and not _is_bool(found) and 0 < found <= 1,
        ),
    )


def _domains(table: _Table) -> DomainSettings:
    return DomainSettings(
        manage=_manage(table, DEFAULTS.domains.manage),
        foreign=_foreign(table, DEFAULTS.domains.foreign),
        source=_source(table, DEFAULTS.domains.source),
        rate=_rate(table, DEFAULTS.domains.rate),
        require=_require(table, DEFAULTS.domains.require),
        require_feeder=table.value(
            "require_feeder", DEFAULTS.domains.require_feeder, "true or false", _is_bool
        ),
        rules=tuple(_rule(rule) for rule in table.tables("rule")),
    )


def _rule(table: _Table) -> Rule:
    rule = Rule(
        match=table.value("match", None, "a name, a glob or a UUID", _is_text),
        os=table.value("os", None, "a glob for libosinfo's id of the guest's system", _is_text),
        manage=_manage(table, None),
        source=_source(table, None),
        rate=_rate(table, None),
        foreign=_foreign(table, None),
        require=_require(table, None),
    )
    if rule.match is None and rule.os is None:
        raise table.error("match", None, "a rule names its guests with 'match', 'os' or both")
    return rule


def _source(table: _Table, default: T) -> T:
    allowed = f"{' or '.join(SAFE_SOURCES)}; QEMU dies or hangs on any other file"
    return table.value("source", default, allowed, lambda found: found in SAFE_SOURCES)


def _manage(table: _Table, default: T) -> T:
    return table.value("manage", default, " | ".join(MANAGE), lambda found: found in MANAGE)


def _foreign(table: _Table, default: T) -> T:
    return table.value("foreign", default, " | ".join(FOREIGN), lambda found: found in FOREIGN)


def _require(table: _Table, default: T) -> T:
    return table.value("require", default, " | ".join(REQUIRE), lambda found: found in REQUIRE)


def _rate(table: _Table, default: T) -> T | Rate:
    if "rate" not in table.values:
        table.known.add("rate")
        return default
    rate = table.table("rate")
    allowed = "a whole number, 1 to 4294967295 (libvirt holds it in 32 bits)"
    return Rate(
        bytes=rate.value("bytes", DEFAULTS.domains.rate.bytes, allowed, _is_between(1, 2**32 - 1)),
        period_ms=rate.value(
            "period_ms", DEFAULTS.domains.rate.period_ms, allowed, _is_between(1, 2**32 - 1)
        ),
    )


def _metrics(table: _Table) -> MetricsSettings:
    return MetricsSettings(listen=_address(table, "listen"), watch_listen=_address(table, "watch_listen"))


def _address(table: _Table, key: str) -> Listen | None:
    text = table.value(
        key,
        None,
        'an address and a port, such as "127.0.0.1:9877" or "[::1]:9877"',
        lambda found: isinstance(found, str) and _listen(found) is not None,
    )
    return None if text is None else _listen(text)


def _paths(table: _Table) -> PathSettings:
    def path(key: str, default: Path) -> Path:
        return Path(table.value(key, str(default), "an absolute path", _is_absolute))

    return PathSettings(
        run_dir=path("run_dir", DEFAULTS.paths.run_dir),
        state_dir=path("state_dir", DEFAULTS.paths.state_dir),
    )


def _listen(text: str) -> Listen | None:
    import ipaddress  # 3 ms, which the hook need not pay for

    host, _, port = text.rpartition(":")
    with suppress(ValueError):
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        bracketed = host.startswith("[") and host.endswith("]")
        if bracketed == (address.version == 6) and port.isascii() and 0 < int(port) < 2**16:
            return Listen(str(address), int(port))
    return None


def _shown(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # Python prints no integer of more than 4300 digits
        return "a number too long to print"


def _is_bool(found: object) -> bool:
    return isinstance(found, bool)


def _is_text(found: object) -> bool:
    return isinstance(found, str) and found != ""


def _is_absolute(found: object) -> bool:
    return isinstance(found, str) and found.startswith("/") and "\0" not in found


def _is_between(lowest: int, highest: int) -> Callable[[Any], bool]:
    return lambda found: isinstance(found, int) and not _is_bool(found) and lowest <= found <= highest
