# SPDX-License-Identifier: LGPL-2.1-or-later
"""What Prometheus is told."""

import re
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY, Metric, openmetrics, parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from tests.unit.scraper import FED, KEY, NAME, NOW_S, OPEN_METRICS, ask, listening, scrape
from tests.unit.support import ROOT
from virtrng import __version__, kernel, metrics
from virtrng.feeder.states import State

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
    with listening() as address:
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
    with listening() as address:
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
    with listening(lambda: replace(FED, keys=keys)) as address:
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
    with listening(lambda: feeder) as address:
        found = samples(address)
    names = {name for name, _ in found}
    assert not names & {"virtrng_last_seed_timestamp_seconds", "virtrng_last_seed_age_seconds"}
    assert not [name for name in names if name.startswith("virtrng_key_")]
    assert told(found, "virtrng_unfed_seconds") == 90
    assert told(found, "virtrng_kernel_crng_ready") == 0


def test_before_the_feeder_knows_anything() -> None:
    with listening(lambda: None) as address:
        found = samples(address)
    assert {name for name, _ in found if name.startswith("virtrng_")} == {"virtrng_build_info"}
    assert (told(found, "process_resident_memory_bytes") or 0) > 1e6
    assert (told(found, "process_open_fds") or 0) > 3


def test_two_keys_of_one_name_make_no_answer_that_prometheus_refuses() -> None:
    twice = replace(FED, keys=(KEY, replace(KEY, bytes_read=1), replace(KEY, serial="\udc80")))
    with listening(lambda: twice) as address:
        text = scrape(address)
    lines = [line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")]
    assert len(lines) == len(set(lines))
    assert 'key="entropykey:serial=?"' in text


def test_both_formats_are_read_by_their_parsers() -> None:
    with listening() as address:
        plain = families(scrape(address))
        answer = ask(address, Accept=OPEN_METRICS)
    assert answer.getheader("Content-Type") == openmetrics.exposition.CONTENT_TYPE_LATEST
    text = answer.body.decode()  # type: ignore[attr-defined]
    strict = list(openmetrics_parser.text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
    counters = {family.name for family in strict if family.type == "counter"}
    assert {family.name for family in plain if family.type == "counter"} == counters != set()
    assert len(strict) == len(plain)


# https://prometheus.io/docs/practices/naming/: base units, plural, as the last word before _total.
NOT_BASE = re.compile(r"_(ms|milliseconds|minutes|hours|kelvin|kilobytes|percent|k|v|s|at)(_total)?$")


def test_the_names_keep_to_the_conventions() -> None:
    with listening() as address:
        found = families(scrape(address))
    for family in found:
        for sample in family.samples:
            assert re.fullmatch(r"(virtrng|process)_[a-z_]+[a-z]", sample.name)
            assert sample.name.endswith("_total") is (family.type == "counter")
            assert not NOT_BASE.search(sample.name)
        assert family.documentation.endswith(".")


def test_the_alert_rules_ask_for_what_is_told() -> None:
    with listening() as address:
        known = {name for name, _ in samples(address)} | {"up"}
    rules = (ROOT / "docs" / "alerts.yml").read_text()
    expressions = re.findall(r"^ +expr: (.*)$", rules, re.MULTILINE)
    asked = {name for one in expressions for name in re.findall(r"\b(?:virtrng_\w+|up)\b", one)}
    states = {state for one in re.findall(r'state=~?"([a-z|]+)"', rules) for state in one.split("|")}
    assert len(expressions) == rules.count("- alert:") > 5
    assert asked <= known
    assert states <= set(metrics.STATES)


def test_nothing_is_registered_with_the_whole_process() -> None:
    with listening() as address:
        scrape(address)
        assert not [one for one in REGISTRY.collect() if one.name.startswith("virtrng")]


def test_the_manual_page_names_all_that_is_told() -> None:
    with listening() as address:
        told_names = {name for name, _ in samples(address)}
    page = (ROOT / "docs" / "virtrng.toml.5").read_text()
    named = set(re.findall(r"^\.B (virtrng_[a-z_]+[a-z])(?:\{.*\})?$", page, re.MULTILINE))
    left_open = ("virtrng_key_reported_", "process_")
    assert named == {name for name in told_names if not name.startswith(left_open)}
