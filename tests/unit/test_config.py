# SPDX-License-Identifier: LGPL-2.1-or-later
"""The configuration: its defaults, and what it says of every value that it does not take."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from tests.unit.support import in_child, is_root
from virtrng import config
from virtrng.config import Config, KeySettings, Listen, Rate, Rule
from virtrng.errors import ConfigError, ConfigUnreadable

FULL = b"""
[feeder]
interval_s = 300
reseed = false
[[key]]
serial = "A/B"
min_entropy = 1
[[key]]
serial = "C"
[domains]
manage = "all"
foreign = "replace"
source = "/dev/urandom"
rate = { bytes = 1, period_ms = 4294967295 }
require = "refuse"
require_feeder = true
[[domains.rule]]
match = "build-*"
manage = "off"
foreign = "keep"
require = "off"
[[domains.rule]]
os = "*debian*"
source = "/dev/random"
rate = { bytes = 9 }
[metrics]
listen = "[::1]:9877"
watch_listen = "127.0.0.1:9878"
[paths]
run_dir = "/tmp/x y"
state_dir = "/tmp/z"
"""


def parse(text: str | bytes) -> Config:
    return config.parse(text.encode() if isinstance(text, str) else text, "F")


def test_every_default() -> None:
    assert parse("") == Config() == config.DEFAULTS
    assert dataclasses.asdict(parse("")) == {
        "feeder": {"interval_s": 10, "reseed": True},
        "keys": (),
        "domains": {
            "manage": "new",
            "foreign": "keep",
            "source": "/dev/random",
            "rate": {"bytes": 4096, "period_ms": 1000},
            "require": "off",
            "require_feeder": False,
            "rules": (),
        },
        "metrics": {"listen": None, "watch_listen": None},
        "paths": {"run_dir": Path("/run/virtrng"), "state_dir": Path("/var/lib/virtrng-watch")},
    }


@pytest.mark.parametrize("empty", ["[feeder]", "[domains]", "[paths]", "key = []", "[domains]\nrule = []"])
def test_an_empty_table_is_the_default(empty: str) -> None:
    assert parse(empty) == Config()


def test_every_value() -> None:
    found = parse(FULL)
    assert (found.feeder.interval_s, found.feeder.reseed) == (300, False)
    assert found.keys == (KeySettings("A/B", 1), KeySettings("C"))
    assert found.domains.source == "/dev/urandom"
    assert found.domains.rate == Rate(1, 4294967295)
    assert (found.domains.manage, found.domains.foreign) == ("all", "replace")
    assert (found.domains.require, found.domains.require_feeder) == ("refuse", True)
    assert found.domains.rules == (
        Rule(match="build-*", manage="off", foreign="keep", require="off"),
        Rule(os="*debian*", source="/dev/random", rate=Rate(9, 1000)),
    )
    assert found.metrics.listen == Listen("::1", 9877)
    assert str(found.metrics.listen) == "[::1]:9877"
    assert found.metrics.watch_listen == Listen("127.0.0.1", 9878)
    assert (found.paths.run_dir, found.paths.state_dir) == (Path("/tmp/x y"), Path("/tmp/z"))


@pytest.mark.parametrize("require", config.REQUIRE)
def test_each_require(require: str) -> None:
    assert parse(f"[domains]\nrequire = '{require}'").domains.require == require


@pytest.mark.parametrize("manage", config.MANAGE)
def test_each_manage(manage: str) -> None:
    domains = parse(f"[domains]\nmanage = '{manage}'\n[[domains.rule]]\nmatch = 'a'").domains
    assert (domains.manage, domains.rules) == (manage, (Rule(match="a", manage=None),))
    (rule,) = parse(f"[[domains.rule]]\nmatch = 'a'\nmanage = '{manage}'").domains.rules
    assert rule.manage == manage


@pytest.mark.parametrize(
    ("run_dir", "watch_dir"),
    [("/run/virtrng", "/run/virtrng-watch"), ("/tmp/x.y/z.d/", "/tmp/x.y/z.d-watch")],
)
def test_the_watcher_has_a_directory_of_its_own_beside_the_feeders(run_dir: str, watch_dir: str) -> None:
    assert parse(f"[paths]\nrun_dir = '{run_dir}'").paths.watch_dir == Path(watch_dir)


WHOLE = "a whole number of seconds, 1 to 300"
RATE = "a whole number, 1 to 4294967295 (libvirt holds it in 32 bits)"
SOURCE = "/dev/random or /dev/urandom; QEMU dies or hangs on any other file"
ENTROPY = "assessed bits per bit, above 0 and at most 1"
LISTEN = 'an address and a port, such as "127.0.0.1:9877" or "[::1]:9877"'
BAD = [
    ("feeder = 1", "feeder", "1", "a table"),
    ("feeder = []", "feeder", "[]", "a table"),
    ("[feeder]\ninterval_s = 0", "feeder.interval_s", "0", WHOLE),
    ("[feeder]\ninterval_s = 301", "feeder.interval_s", "301", WHOLE),
    ("[feeder]\ninterval_s = 10.0", "feeder.interval_s", "10.0", WHOLE),
    ("[feeder]\ninterval_s = true", "feeder.interval_s", "True", WHOLE),
    ("[feeder]\ninterval_s = '10'", "feeder.interval_s", "'10'", WHOLE),
    ("[feeder]\nreseed = 1", "feeder.reseed", "1", "true or false"),
    ("key = 1", "key", "1", "tables written as [[key]]"),
    ("[key]\nserial = 'x'", "key", "{'serial': 'x'}", "tables written as [[key]]"),
    ("key = [1]", "key", "1", "a table"),
    ("[[key]]\n", "key[0].serial", "''", "the serial of the key (it must be given)"),
    ("[[key]]\nserial = ''", "key[0].serial", "''", "the serial of the key (it must be given)"),
    ("[[key]]\nserial = 7", "key[0].serial", "7", "the serial of the key (it must be given)"),
    ("[[key]]\nserial='a'\n[[key]]\nserial='b'\nmin_entropy = 0", "key[1].min_entropy", "0", ENTROPY),
    ("[[key]]\nserial='a'\nmin_entropy = 1.01", "key[0].min_entropy", "1.01", ENTROPY),
    ("[[key]]\nserial='a'\nmin_entropy = nan", "key[0].min_entropy", "nan", ENTROPY),
    ("[[key]]\nserial='a'\nmin_entropy = true", "key[0].min_entropy", "True", ENTROPY),
    ("domains = ''", "domains", "''", "a table"),
    ("[domains]\nsource = '/dev/hwrng'", "domains.source", "'/dev/hwrng'", SOURCE),
    ("[domains]\nsource = ['/dev/random']", "domains.source", "['/dev/random']", SOURCE),
    ("[domains]\nrate = 4096", "domains.rate", "4096", "a table"),
    ("[domains]\nrate = { bytes = 0 }", "domains.rate.bytes", "0", RATE),
    ("[domains]\nrate = { bytes = 4294967296 }", "domains.rate.bytes", "4294967296", RATE),
    ("[domains]\nrate = { period_ms = -1 }", "domains.rate.period_ms", "-1", RATE),
    ("[domains]\nrequire = 'yes'", "domains.require", "'yes'", "off | warn | refuse"),
    ("[domains]\nrequire = true", "domains.require", "True", "off | warn | refuse"),
    ("[domains]\nrequire_feeder = 'no'", "domains.require_feeder", "'no'", "true or false"),
    ("[domains]\nrule = {}", "domains.rule", "{}", "tables written as [[domains.rule]]"),
    ("[domains]\nrule = ['x']", "domains.rule", "'x'", "a table"),
    (
        "[[domains.rule]]\nrequire = 'off'",
        "domains.rule[0].match",
        "None",
        "a rule names its guests with 'match', 'os' or both",
    ),
    ("[[domains.rule]]\nmatch = ''", "domains.rule[0].match", "''", "a name, a glob or a UUID"),
    (
        "[[domains.rule]]\nos = 1",
        "domains.rule[0].os",
        "1",
        "a glob for libosinfo's id of the guest's system",
    ),
    ("[[domains.rule]]\nmatch='a'\nsource=''", "domains.rule[0].source", "''", SOURCE),
    ("[[domains.rule]]\nmatch='a'\nrate.bytes=0", "domains.rule[0].rate.bytes", "0", RATE),
    ("[[domains.rule]]\nmatch='a'\nrequire='Off'", "domains.rule[0].require", "'Off'", "off | warn | refuse"),
    ("[domains]\nmanage = 'none'", "domains.manage", "'none'", "new | all | off"),
    ("[domains]\nmanage = false", "domains.manage", "False", "new | all | off"),
    ("[[domains.rule]]\nmatch='a'\nmanage='New'", "domains.rule[0].manage", "'New'", "new | all | off"),
    ("[domains]\nforeign = 'off'", "domains.foreign", "'off'", "keep | replace"),
    ("[[domains.rule]]\nmatch='a'\nforeign=1", "domains.rule[0].foreign", "1", "keep | replace"),
    *(
        (f"[metrics]\nlisten = {value}", "metrics.listen", value, LISTEN)
        for value in (
            "9877",
            "''",
            "'localhost:9877'",
            "'127.0.0.1'",
            "'127.0.0.1:0'",
            "'127.0.0.1:65536'",
            "'::1:9877'",
            "'[127.0.0.1]:9877'",
            "'127.0.0.1:x'",
            "'127.0.0.1:\u0661'",
        )
    ),
    ("[metrics]\nwatch_listen = '9878'", "metrics.watch_listen", "'9878'", LISTEN),
    ("paths = []", "paths", "[]", "a table"),
    ("[paths]\nrun_dir = 'run'", "paths.run_dir", "'run'", "an absolute path"),
    ("[paths]\nstate_dir = 'state'", "paths.state_dir", "'state'", "an absolute path"),
    ("[paths]\nrun_dir = 1", "paths.run_dir", "1", "an absolute path"),
    ('[paths]\nrun_dir = "/a\\u0000b"', "paths.run_dir", "'/a\\x00b'", "an absolute path"),
]


@pytest.mark.parametrize(("text", "path", "value", "allowed"), BAD, ids=[row[0] for row in BAD])
def test_a_bad_value_is_named(text: str, path: str, value: str, allowed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value) == f"F: {path} is {value}"
    assert caught.value.remedy == f"allowed: {allowed}"


UNKNOWN = [
    ("foo = 1", "foo", "domains, feeder, key, metrics, paths"),
    ("[feeder]\ninterval = 1", "feeder.interval", "interval_s, reseed"),
    ("[[key]]\nserial='a'\nname='b'", "key[0].name", "min_entropy, serial"),
    ("[domains]\nrequires='off'", "domains.requires",
     "foreign, manage, rate, require, require_feeder, rule, source"),
    ("[domains]\nrate = { byte = 1 }", "domains.rate.byte", "bytes, period_ms"),
    ("[[domains.rule]]\nmatch='a'\nrequire_feeder=true", "domains.rule[0].require_feeder",
     "foreign, manage, match, os, rate, require, source"),
    ("[[domains.rule]]\nmatch='a'\nrate.x=1", "domains.rule[0].rate.x", "bytes, period_ms"),
    ("[metrics]\nport = 1", "metrics.port", "listen, watch_listen"),
    ("[paths]\nstate='/'", "paths.state", "run_dir, state_dir"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "path", "known"), UNKNOWN, ids=[row[1] for row in UNKNOWN])
def test_an_unknown_key_is_named(text: str, path: str, known: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert str(caught.value) == f"F: {path} is not a setting"
    assert caught.value.remedy == f"allowed: {known}"


def test_a_number_too_long_to_print() -> None:
    with pytest.raises(ConfigError, match=r"feeder.interval_s is a number too long to print"):
        parse("[feeder]\ninterval_s = 0x" + "f" * 5000)


@pytest.mark.parametrize(
    "content",
    [b"\xff", b"a = ", b"[", b"a = 1\na = 2", b"a = " + b"[" * 5000, b"a = " + b"1" * 5000, b"\0"],
    ids=["latin-1", "no value", "open", "twice", "deep", "long", "nul"],
)
def test_what_is_not_toml(content: bytes) -> None:
    with pytest.raises(ConfigUnreadable, match=r"^F: not TOML: ") as caught:
        parse(content)
    assert caught.value.remedy == "'virtrng render virtrng.toml' prints a sample"


def test_a_named_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ConfigUnreadable, match=r"none.toml: no such file$"):
        config.load(tmp_path / "none.toml")


def test_the_default_file_may_be_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "none.toml")
    assert config.load() == Config()
    (tmp_path / "none.toml").write_text("[feeder]\ninterval_s = 7")
    assert config.load().feeder.interval_s == 7


def test_a_directory_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigUnreadable, match=r"Is a directory$"):
        config.load(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    file = tmp_path / "virtrng.toml"
    file.write_text("")
    file.chmod(0)
    said = in_child(lambda: config.load(file), nobody=True)
    assert said == f"ConfigUnreadable: {file}: Permission denied"
    assert not is_root() or config.load(file) == Config()


SCALARS = st.one_of(
    st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.dates(), st.datetimes(),
    st.sampled_from(["off", "/dev/random", "/x", "a*"]),
)  # fmt: skip
NAMES = st.sampled_from(
    [
        "feeder",
        "key",
        "domains",
        "paths",
        "interval_s",
        "reseed",
        "serial",
        "min_entropy",
        "manage",
        "foreign",
        "source",
        "metrics",
        "listen",
        "watch_listen",
        "rate",
        "bytes",
        "period_ms",
        "require",
        "require_feeder",
        "rule",
        "match",
        "os",
        "run_dir",
        "state_dir",
        "x",
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=10,
)


def toml(value: object) -> str:
    """Write a value as TOML does, tables inline."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(letter):08x}" for letter in value) + '"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return value.isoformat() if hasattr(value, "isoformat") else repr(value)


@settings(derandomize=True, max_examples=scaled(150))
@given(st.dictionaries(NAMES, VALUES, max_size=4))
def test_no_document_raises_anything_else(document: dict[str, object]) -> None:
    text = "\n".join(f"{key} = {toml(value)}" for key, value in document.items())
    try:
        assert isinstance(parse(text), Config)
    except (ConfigError, ConfigUnreadable) as error:
        assert "\n" not in error.remedy  # noqa: PT017  not every document is refused


@settings(derandomize=True, max_examples=scaled(200))
@given(st.binary(max_size=60), st.integers(0, len(FULL)), st.integers(0, 20))
def test_no_bytes_raise_anything_else(content: bytes, start: int, length: int) -> None:
    for document in (content, FULL[:start] + content[:length] + FULL[start + length :]):
        try:
            assert isinstance(parse(document), Config)
        except (ConfigError, ConfigUnreadable):
            continue
