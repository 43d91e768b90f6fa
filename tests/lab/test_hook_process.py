# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook as a process: DESIGN's table, operation by operation."""

import stat
import time
from pathlib import Path

import pytest
from lxml import etree

from tests.lab.host import children
from tests.unit.domain.hook_rig import FOREIGN, OURS, PASSED, UUID, WITH, WITH_FOREIGN, WITHOUT, Hook, domain
from virtrng import kernel, status
from virtrng.domain import hook as hook_module
from virtrng.status import FeederStatus, KernelStatus

REFUSE = "[domains]\nrequire = 'refuse'"
SENTENCE = (
    "virtrng: web has no virtio-rng, and this host's policy requires one: run 'virtrng enable web' and start "
    "it again (if it was defined just now, the watcher may have given it one since: start it again, "
    "or define it through 'virtrng xml')\n"
)
CONFIGS = {
    "none": None,
    "without require": "[feeder]\ninterval_s = 5",
    "in a comment": "# require = 'refuse'\n   #require",
    "off": "[domains]\nrequire = 'off'",
    "warn": "[domains]\nrequire = 'warn'",
    "refuse": REFUSE,
    "refuse by rule": "[[domains.rule]]\nmatch = 'w*'\nrequire = 'refuse'",
    "not by rule": "[domains]\nrequire = 'refuse'\n[[domains.rule]]\nmatch = 'w*'\nrequire = 'off'",
    "broken": "[domains\nrequire = 'refuse'",
    "bad value": "[domains]\nrequire = 'perhaps'",
    "garbage": "\x00\x01 require \x7f",
}
OPERATIONS = [
    ("prepare", "begin", "-"),
    ("start", "begin", "-"),
    ("started", "begin", "-"),
    ("stopped", "end", "shutdown"),
    ("release", "end", "-"),
    ("release", "end", "destroyed"),
    ("reconnect", "begin", "-"),
    ("attach", "begin", "-"),
    ("migrate", "begin", "-"),
    ("restore", "begin", "-"),
    ("nonsense", "begin", "-"),
    ("", "", ""),
]


@pytest.fixture
def hook(open_path: Path) -> Hook:
    return Hook(open_path)


@pytest.mark.parametrize("config", CONFIGS)
def test_only_a_fresh_start_that_policy_forbids_is_refused(config: str, hook: Hook) -> None:
    text = CONFIGS[config]
    if text is not None:
        hook.configure(text)
    for operation, sub, extra in OPERATIONS:
        if operation == "restore" and config not in ("none", "refuse", "broken"):
            continue  # to Python it is what migrate is
        answer = hook.call(operation, sub=sub, extra=extra)
        refused = operation == "prepare" and config in ("refuse", "refuse by rule")
        assert (answer.code, answer.out) == (int(refused), b""), (operation, config)
        assert answer.err == (SENTENCE if refused else ""), (operation, config)


def test_the_operations_are_those_of_the_table() -> None:
    assert {"prepare", "release", "migrate", "restore"} == set(hook_module._OPERATIONS)
    assert {operation for operation, _, _ in OPERATIONS} >= set(hook_module._OPERATIONS)


@pytest.mark.parametrize(
    "content", [WITH, WITH_FOREIGN, domain(FOREIGN, OURS)], ids=["ours", "foreign", "both"]
)
def test_a_guest_with_a_device_starts(content: bytes, hook: Hook) -> None:
    hook.configure(REFUSE)
    assert hook.call("prepare", content) == PASSED


def test_a_configuration_without_an_end_of_line(hook: Hook) -> None:
    hook.config_file.write_text("domains.require = 'refuse'")
    assert hook.call("prepare").code == 1


def test_an_indented_setting_counts(hook: Hook) -> None:
    hook.config_file.write_text("[domains]\n\t  require = 'refuse'\r\n")
    assert hook.call("prepare").code == 1


def test_names_are_told_as_they_are(hook: Hook) -> None:
    hook.configure(REFUSE)
    answer = hook.call("prepare", domain(name="caf\u00e9 $(id) 'x'"), name="caf\u00e9 $(id) 'x'")
    assert answer.code == 1
    assert "virtrng: caf\u00e9 $(id) 'x' has no virtio-rng" in answer.err


@pytest.mark.parametrize("name", ["-c", "--help", "-", "a b", "$(false)"])
def test_no_name_is_an_option(name: str, hook: Hook) -> None:
    hook.configure(REFUSE)
    assert hook.call("prepare", WITH, name=name) == PASSED
    assert hook.call("prepare", WITHOUT, name=name).code == 1


def test_python_is_started_only_where_it_has_a_say(hook: Hook) -> None:
    package = hook.base / "lib" / "virtrng"
    package.mkdir(parents=True)
    trace = hook.base / "trace"
    (package / "__init__.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    hook.install(package.parent)
    for config, text in CONFIGS.items():
        hook.configure(text or "")
        names_it = config not in ("none", "without require", "in a comment")
        for operation, sub, extra in OPERATIONS:
            assert hook.call(operation, sub=sub, extra=extra) == PASSED
            asked = operation in ("migrate", "restore") or (operation == "prepare" and names_it)
            assert trace.exists() is asked, (operation, config)
            trace.unlink(missing_ok=True)


# --- what must not stop a guest

REACHING_PYTHON = ["prepare", "migrate"]  # restore is to Python what migrate is


@pytest.mark.parametrize("operation", REACHING_PYTHON)
def test_a_package_that_is_missing(operation: str, hook: Hook) -> None:
    hook.configure(REFUSE)
    hook.install(hook.base / "nowhere")
    assert hook.call(operation, WITH) == PASSED
    assert hook.call(operation) == PASSED


@pytest.mark.parametrize("operation", REACHING_PYTHON)
@pytest.mark.parametrize(
    "content", ["syntax error(", "import sys\nsys.exit(1)", "import os\nos.abort()", "1/0"]
)
def test_a_package_that_is_broken(operation: str, content: str, hook: Hook) -> None:
    hook.configure(REFUSE)
    (hook.install_copy() / "domain" / "policy.py").write_text(content)
    answer = hook.call(operation, WITH)
    assert (answer.code, answer.out) == (0, b"")
    assert "Traceback" not in answer.err


@pytest.mark.parametrize("operation", [*REACHING_PYTHON, "started", "reconnect"])
def test_a_configuration_that_may_not_be_read(operation: str, hook: Hook) -> None:
    hook.install_copy()
    hook.configure(REFUSE)
    hook.config_file.chmod(0)
    assert hook.call(operation, nobody=True) == PASSED
    assert hook.call(operation, WITH, nobody=True) == PASSED


def test_an_ordinary_users_daemon_is_refused_and_retargeted_too(hook: Hook) -> None:
    hook.install_copy()
    hook.configure(REFUSE)
    assert hook.call("prepare", nobody=True).code == 1
    hook.marks.mkdir(mode=0o700)  # root's: no mark can be left, and the arrival goes on
    answer = hook.call("migrate", WITH, nobody=True)
    assert (answer.code, answer.err) == (0, "")
    assert b"/dev/random" in answer.out


@pytest.mark.parametrize("operation", [*REACHING_PYTHON, "started"])
@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"garbage", b"\xff\xfe\x00", WITH[:-40], b"<network/>", WITH + WITH,
     domain(OURS, uuid="../../../etc/x"), domain(OURS, uuid="")],
    ids=["empty", "blank", "garbage", "bytes", "torn", "a network", "two", "a path", "no uuid"],
)  # fmt: skip
def test_whatever_comes_on_stdin(operation: str, content: bytes, hook: Hook) -> None:
    hook.configure(REFUSE)
    answer = hook.call(operation, content)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == b"" or content.startswith(b"<domain")
    assert not hook.marks.exists() or list(hook.marks.iterdir()) == []


@pytest.mark.parametrize("operation", [*REACHING_PYTHON, "started"])
@pytest.mark.parametrize("redirections", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_descriptors_that_are_closed(operation: str, redirections: str, hook: Hook) -> None:
    hook.configure(REFUSE)
    answer = hook.call_with_closed(operation, redirections)
    assert answer.code == 0
    assert answer.err == ""


@pytest.mark.parametrize("config", ["without require", "refuse"])
def test_five_megabytes(config: str, hook: Hook) -> None:
    hook.configure(str(CONFIGS[config]))
    padding = f"<metadata><a:a xmlns:a='urn:a'>{'x' * 5_000_000}</a:a></metadata>".encode()
    large = WITH.replace(b"  <devices>", padding + b"<devices>")
    assert hook.call("prepare", large) == PASSED
    assert hook.call("started", large) == PASSED
    assert len(hook.call("migrate", large).out) > 5_000_000


# --- arrivals


@pytest.mark.parametrize("operation", ["migrate", "restore"])
def test_an_arrival_is_retargeted_in_source_and_rate_alone(operation: str, hook: Hook) -> None:
    hook.configure("")
    answer = hook.call(operation, domain(FOREIGN, OURS))
    assert (answer.code, answer.err) == (0, "")
    expected = etree.fromstring(domain(FOREIGN, OURS))
    ours = expected.findall("devices/rng")[1]
    ours.find("backend").text = "/dev/random"
    ours.find("rate").attrib.update({"bytes": "4096", "period": "1000"})
    assert etree.tostring(etree.fromstring(answer.out), method="c14n") == etree.tostring(
        expected, method="c14n"
    )
    assert not answer.out.startswith(b"<?xml"), "libvirt gave none"


def test_the_policy_of_this_host_counts(hook: Hook) -> None:
    hook.configure("[domains]\nsource = '/dev/urandom'\nrate = { bytes = 7, period_ms = 9 }")
    ours = etree.fromstring(hook.call("migrate", WITH).out).find("devices/rng")
    assert dict(ours.find("rate").attrib) == {"bytes": "7", "period": "9"}
    assert ours.find("backend").text == "/dev/urandom"


@pytest.mark.parametrize("operation", ["migrate", "restore"])
@pytest.mark.parametrize(
    "content",
    [
        WITHOUT,
        WITH_FOREIGN,
        domain(OURS.replace("512", "4096").replace("2000", "1000").replace("urandom", "random")),
    ],
    ids=["none", "foreign", "as it should be"],
)
def test_nothing_is_printed_where_nothing_changes(operation: str, content: bytes, hook: Hook) -> None:
    hook.configure("")
    assert hook.call(operation, content) == PASSED


def test_what_was_retargeted_is_left_alone(hook: Hook) -> None:
    hook.configure("")
    once = hook.call("migrate", WITH).out
    assert once
    assert hook.call("restore", once) == PASSED


# --- marks


@pytest.mark.parametrize(
    ("operation", "sub", "extra"),
    [("migrate", "begin", "-"), ("restore", "begin", "-"), ("release", "end", "from snapshot")],
)
def test_after_an_arrival_one_prepare_passes(operation: str, sub: str, extra: str, hook: Hook) -> None:
    hook.configure(REFUSE)
    assert hook.call(operation, sub=sub, extra=extra) == PASSED
    assert [*hook.marks.iterdir()] == [hook.mark()]
    assert stat.S_IMODE(hook.marks.stat().st_mode) == 0o700
    assert stat.S_IMODE(hook.mark().stat().st_mode) == 0o600
    assert hook.call("prepare") == PASSED
    assert [*hook.marks.iterdir()] == []
    assert hook.call("prepare").code == 1


def test_the_mark_is_of_one_guest(hook: Hook) -> None:
    hook.configure(REFUSE)
    other = UUID.replace("6", "7")
    hook.call("restore", domain(uuid=UUID.upper()))
    assert [*hook.marks.iterdir()] == [hook.mark()]
    assert hook.call("prepare", domain(uuid=other)).code == 1
    assert hook.call("prepare") == PASSED


@pytest.mark.parametrize("config", [None, "[feeder]\ninterval_s = 5", "[domains]\nrequire = 'off'"])
def test_where_nothing_is_required_no_mark_is_left(config: str | None, hook: Hook) -> None:
    if config:
        hook.configure(config)
    hook.call("migrate", WITH)
    hook.call("release", sub="end", extra="-")
    assert not hook.marks.exists()


@pytest.mark.parametrize(
    ("age_s", "passes"), [(0.0, True), (50.0, True), (60.5, False), (1e6, False), (-100.0, False)]
)
def test_an_old_mark_counts_for_nothing_and_is_deleted(age_s: float, *, passes: bool, hook: Hook) -> None:
    hook.configure(REFUSE)
    hook.marks.mkdir()
    hook.mark().write_text(f"{kernel.boottime_s() - age_s:.3f}\n")
    assert hook.call("prepare").code == int(not passes)
    assert [*hook.marks.iterdir()] == []


@pytest.mark.parametrize("content", [b"", b"now", b"nan", b"\xff\xfe", b"1e999", b"0" * 1000])
def test_a_garbled_mark_counts_for_nothing_and_is_deleted(content: bytes, hook: Hook) -> None:
    hook.configure(REFUSE)
    hook.marks.mkdir()
    hook.mark().write_bytes(content)
    assert hook.call("prepare").code == 1
    assert [*hook.marks.iterdir()] == []


def test_a_symlink_in_the_place_of_a_mark_is_not_followed(hook: Hook) -> None:
    hook.configure(REFUSE)
    hook.marks.mkdir()
    outside = hook.base / "outside"
    fresh = f"{kernel.boottime_s():.3f}\n"
    outside.write_text(fresh)
    hook.mark().symlink_to(outside)
    assert hook.call("prepare").code == 1
    assert hook.call("restore") == PASSED
    assert outside.read_text() == fresh
    assert hook.mark().is_symlink()


# --- the feeder

FEEDING = f"{REFUSE}\nrequire_feeder = true"


def seeded(run_dir: Path, age_s: float) -> None:
    at_s = kernel.boottime_s() - age_s
    status.write(run_dir, FeederStatus(time.time(), 1, (), KernelStatus(1, 256, 2500, 1.0, at_s, 256)))


def test_a_guest_starts_on_a_fresh_seed(hook: Hook) -> None:
    hook.configure(FEEDING)
    seeded(hook.run_dir, 5.0)
    assert hook.call("prepare", WITH) == PASSED
    assert hook.call("prepare", WITHOUT).err == SENTENCE


@pytest.mark.parametrize("feeder", ["none", "stale"])
def test_and_not_on_an_old_one(feeder: str, hook: Hook) -> None:
    hook.configure(FEEDING)
    if feeder == "stale":
        seeded(hook.run_dir, 61.0)
    answer = hook.call("prepare", WITH)
    just_started = kernel.boottime_s() < hook_module.BOOT_GRACE_S  # then it only warns
    assert answer.code == int(not just_started)
    if not just_started:
        said = "no seed was given since boot" if feeder == "none" else "the last seed is 61 s old"
        assert (
            answer.err
            == f"virtrng: {said}, and this host's policy requires a feeding key: see 'virtrng status'\n"
        )


def test_a_broken_status_stops_nobody(hook: Hook) -> None:
    hook.configure(FEEDING)
    hook.run_dir.mkdir()
    (hook.run_dir / "feeder.json").write_text("{")
    assert hook.call("prepare", WITH) == PASSED


def test_it_leaves_no_descriptor_for_libvirt_to_wait_on(hook: Hook) -> None:
    hook.configure(REFUSE)
    before = children()
    assert hook.call("prepare").code == 1
    assert children() <= before
