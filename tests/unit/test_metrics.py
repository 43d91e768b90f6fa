# SPDX-License-Identifier: LGPL-2.1-or-later
"""What Prometheus is told."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY, Metric, openmetrics, parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from tests.unit.scraper import FED, KEY, NAME, NOW_S, OPEN_METRICS, WATCHING, ask, listening, scrape
from tests.unit.support import ROOT
from virtrng import __version__, kernel, metrics
from virtrng.feeder.states import State
from virtrng.scrape import Answer
from virtrng.watch_status import LATENCY_BOUNDS_S, STANDINGS, Latency

FEEDER = metrics.of_feeder(lambda: FED)
WATCHER = metrics.of_watcher(lambda: WATCHING)
GUESTS = "virtrng_watch_guests"
SECONDS = "virtrng_watch_reconcile_seconds"
BOTH = pytest.mark.parametrize("answer", [FEEDER, WATCHER], ids=["feeder", "watcher"])

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "boottime_s", lambda: NOW_S)


def families(text: str) -> list[Metric]:
    return list(parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]


def samples(address: tuple[str, int]) -> Samples:
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in families(scrape(address))
        for one in family.samples
    }


def told(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def test_what_the_feeder_did() -> None:
    with listening(FEEDER) as address:
        found = samples(address)
    assert told(found, "virtrng_build_info", version=__version__) == 1
    for name, value in {
        "seeds_total": 3,
        "seeded_bits_total": 768,
        "seed_input_bytes_total": 7500,
        "last_seed_timestamp_seconds": 1.7e9,
        "last_seed_age_seconds": 5,
        "unfed_seconds": 0,
        "kernel_crng_ready": 1,
        "kernel_entropy_available_bits": 256,
    }.items():
        assert told(found, f"virtrng_{name}") == value, name


def test_what_became_of_a_key() -> None:
    with listening(FEEDER) as address:
        found = samples(address)
    assert told(found, "virtrng_key_info", key=NAME, kind="entropykey", simulated="false") == 1
    for name, value in {
        "read_bytes_total": 10_000,
        "blocks_tested_total": 4,
        "blocks_failed_total": 1,
        "bad_frames_total": 2,
        "sessions_total": 5,
        "failure_rate": 0.0008,
        "quarantines": 1,
        "reported_temperature_celsius": 41.15,
        "reported_supply_volts": 3.25,
        "reported_fips_blocks_per_second": 1.6,
        "reported_fips_blocks": 7,
    }.items():
        assert told(found, f"virtrng_key_{name}", key=NAME) == value, name
    tests = {
        test: told(found, "virtrng_key_test_failures_total", key=NAME, test=test) for test in KEY.failures
    }
    assert tests == KEY.failures


def test_every_state_has_a_sample_and_one_is_set() -> None:
    assert set(metrics.STATES) == {one.value for one in State} | {"absent"}
    keys = tuple(replace(KEY, serial=state, state=state) for state in (*metrics.STATES, "of a newer feeder"))
    with listening(metrics.of_feeder(lambda: replace(FED, keys=keys))) as address:
        found = samples(address)
    for key in keys:
        name = f"entropykey:serial={key.serial}"
        states = {
            state: told(found, "virtrng_key_state", key=name, state=state)
            for state in {*metrics.STATES, key.state}
        }
        assert states == {state: float(state == key.state) for state in states}


def test_what_is_not_known_is_not_told() -> None:
    none_yet = replace(FED.kernel, last_seed_at=None, last_seed_boottime_s=None, crng_ready=False)
    feeder = replace(FED, keys=(), kernel=none_yet, unfed_since_boottime_s=NOW_S - 90)
    with listening(metrics.of_feeder(lambda: feeder)) as address:
        found = samples(address)
    names = {name for name, _ in found}
    assert not names & {"virtrng_last_seed_timestamp_seconds", "virtrng_last_seed_age_seconds"}
    assert not [name for name in names if name.startswith("virtrng_key_")]
    assert told(found, "virtrng_unfed_seconds") == 90
    assert told(found, "virtrng_kernel_crng_ready") == 0


@pytest.mark.parametrize("of", [metrics.of_feeder, metrics.of_watcher])
def test_before_anything_is_known(of: Callable[[Callable[[], None]], Answer]) -> None:
    with listening(of(lambda: None)) as address:
        found = samples(address)
    assert {name for name, _ in found if name.startswith("virtrng_")} == {"virtrng_build_info"}
    assert (told(found, "process_resident_memory_bytes") or 0) > 1e6
    assert (told(found, "process_open_fds") or 0) > 3


def test_what_the_watcher_did() -> None:
    with listening(WATCHER) as address:
        found = samples(address)
    assert told(found, "virtrng_build_info", version=__version__) == 1
    assert (told(found, "process_open_fds") or 0) > 3
    for name, value in {
        "connected": 1,
        "guests_without_device": 3,
        "changes_total": 12,
        "failures_total": 4,
        "last_pass_age_seconds": 30,
    }.items():
        assert told(found, f"virtrng_watch_{name}") == value, name
    assert not [name for name, _ in found if name.startswith(("virtrng_key_", "virtrng_seed"))]


def guests(found: Samples) -> dict[str, float]:
    return {dict(labels)["standing"]: value for (name, labels), value in found.items() if name == GUESTS}


def test_every_standing_has_a_sample() -> None:
    with listening(
        metrics.of_watcher(lambda: replace(WATCHING, guests={"of a newer watcher": 7}))
    ) as address:
        assert guests(samples(address)) == dict.fromkeys(STANDINGS, 0.0) | {"of a newer watcher": 7}
    with listening(WATCHER) as address:
        assert guests(samples(address)) == dict.fromkeys(STANDINGS, 0.0) | dict(WATCHING.guests)


def test_how_long_guests_took_is_a_histogram() -> None:
    with listening(WATCHER) as address:
        (family,) = [one for one in families(scrape(address)) if one.type == "histogram"]
    assert family.name == SECONDS
    below = {one.labels["le"]: one.value for one in family.samples if one.name == f"{SECONDS}_bucket"}
    assert below == dict(zip([*map(str, LATENCY_BOUNDS_S), "+Inf"], [1, 1] + [3] * 7 + [6], strict=True))
    rest = {one.name: one.value for one in family.samples if not one.labels}
    assert rest == {f"{SECONDS}_sum": 100.5, f"{SECONDS}_count": sum(WATCHING.latency.counts)}


def test_a_watcher_that_waits_for_libvirt() -> None:
    waits = replace(WATCHING, waiting="no libvirt answers", last_pass_boottime_s=None, latency=Latency())
    with listening(metrics.of_watcher(lambda: waits)) as address:
        found = samples(address)
    assert told(found, "virtrng_watch_connected") == 0
    assert told(found, "virtrng_watch_last_pass_age_seconds") is None
    assert told(found, f"{SECONDS}_bucket", le="+Inf") == told(found, f"{SECONDS}_count") == 0


def test_two_keys_of_one_name_make_no_answer_that_prometheus_refuses() -> None:
    twice = replace(FED, keys=(KEY, replace(KEY, bytes_read=1), replace(KEY, serial="\udc80")))
    with listening(metrics.of_feeder(lambda: twice)) as address:
        text = scrape(address)
    lines = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) == len(set(lines))
    assert 'key="entropykey:serial=?"' in text


@BOTH
def test_both_formats_are_read_by_their_parsers(answer: Answer) -> None:
    with listening(answer) as address:
        plain = families(scrape(address))
        asked = ask(address, Accept=OPEN_METRICS)
    assert asked.getheader("Content-Type") == openmetrics.exposition.CONTENT_TYPE_LATEST
    text = asked.body.decode()  # type: ignore[attr-defined]
    strict = list(openmetrics_parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    counters = {family.name for family in strict if family.type == "counter"}
    assert {family.name for family in plain if family.type == "counter"} == counters != set()
    assert len(strict) == len(plain)


# https://prometheus.io/docs/practices/naming/: base units, plural, as the last word before _total.
NOT_BASE = re.compile(r"_(ms|milliseconds|minutes|hours|kelvin|kilobytes|percent|k|v|s|at)(_total)?$")


@BOTH
def test_the_names_keep_to_the_conventions(answer: Answer) -> None:
    with listening(answer) as address:
        found = families(scrape(address))
    for family in found:
        for sample in family.samples:
            assert re.fullmatch(r"(virtrng|process)_[a-z_]+[a-z]", sample.name)
            assert sample.name.endswith("_total") is (family.type == "counter")
            assert not NOT_BASE.search(sample.name)
        assert family.documentation.endswith(".")


def names_of_both() -> set[str]:
    """Return all names that are told, a histogram's without what its samples have behind it."""
    names = set()
    for answer in (FEEDER, WATCHER):
        with listening(answer) as address:
            for family in families(scrape(address)):
                names |= {family.name} if family.type == "histogram" else {one.name for one in family.samples}
    return names


def test_the_alert_rules_ask_for_what_is_told() -> None:
    rules = (ROOT / "docs" / "alerts.yml").read_text()
    expressions = re.findall(r"^ +expr: (.*)$", rules, re.MULTILINE)
    asked = {name for one in expressions for name in re.findall(r"\b(?:virtrng_\w+|up)\b", one)}
    assert len(expressions) == rules.count("- alert:") > 5
    assert asked <= names_of_both() | {"up"}
    for label, known in (("state", metrics.STATES), ("standing", STANDINGS)):
        named = {one for found in re.findall(rf'{label}=~?"([a-z|]+)"', rules) for one in found.split("|")}
        assert set() < named <= set(known)


def test_nothing_is_registered_with_the_whole_process() -> None:
    with listening(FEEDER) as address:
        scrape(address)
        assert not [one for one in REGISTRY.collect() if one.name.startswith("virtrng")]


def test_the_manual_page_names_all_that_is_told() -> None:
    page = (ROOT / "docs" / "virtrng.toml.5").read_text()
    named = re.findall(r"^\.B (virtrng_[a-z_]+[a-z])(?:\{.*\})?$", page, re.MULTILINE)
    left_open = ("virtrng_key_reported_", "process_")
    assert sorted(named) == sorted(name for name in names_of_both() if not name.startswith(left_open))
