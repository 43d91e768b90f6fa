# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the hook decides, and what it says in the log: never a secret, never more than a line."""

import os
import syslog
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.unit.domain.hook_rig import UUID, WITH, WITHOUT, domain
from virtrng import kernel, status
from virtrng.domain import glance, hook, marks
from virtrng.domain.hook import ANSWER, PASS, REFUSE
from virtrng.status import FeederStatus, KernelStatus


@dataclass
class Called:
    """The hook in this process: its stdin, its clock and its log are at hand."""

    config_file: Path
    logged: list[tuple[int, str]] = field(default_factory=list)
    now_s: float = 1000.0
    content: bytes = WITHOUT

    def configure(self, text: str) -> None:
        self.config_file.write_text(f"{text}\n[paths]\nrun_dir = '{self.run_dir}'\n")

    @property
    def run_dir(self) -> Path:
        return self.config_file.parent / "run"

    def __call__(self, operation: str, content: bytes = WITHOUT) -> int:
        self.logged.clear()
        self.content = content
        return hook.main(["web", operation, "begin", "-"], str(self.config_file))


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Called:
    called = Called(tmp_path / "virtrng.toml")
    monkeypatch.setattr(hook, "_read_stdin", lambda: called.content)
    monkeypatch.setattr(kernel, "boottime_s", lambda: called.now_s)
    monkeypatch.setattr(syslog, "openlog", lambda *_: None)
    monkeypatch.setattr(syslog, "syslog", lambda level, text: called.logged.append((level, text)))
    return called


REQUIRES = "[domains]\nrequire = 'refuse'"
REFUSED = (
    "web has no virtio-rng, and this host's policy requires one: run 'virtrng enable web' and start it again "
    "(if it was defined just now, the watcher may have given it one since: start it again, "
    "or define it through 'virtrng xml')"
)


def test_a_refusal_is_logged_and_told(call: Called, capfd: pytest.CaptureFixture[str]) -> None:
    call.configure(REQUIRES)
    assert call("prepare") == REFUSE == 3
    assert call.logged == [(syslog.LOG_NOTICE, f"hook: start of web refused: {REFUSED}")]
    assert capfd.readouterr() == ("", f"virtrng: {REFUSED}\n")


def test_warn_is_logged_alone(call: Called, capfd: pytest.CaptureFixture[str]) -> None:
    call.configure("[domains]\nrequire = 'warn'")
    assert call("prepare") == PASS
    assert call.logged == [(syslog.LOG_WARNING, f"hook: web: {REFUSED}")]
    assert capfd.readouterr() == ("", "")


def test_off_is_silent(call: Called) -> None:
    call.configure("[domains]\nrequire = 'off'")
    assert call("prepare") == PASS
    assert call.logged == []


@pytest.mark.parametrize("operation", ["start", "started", "stopped", "reconnect", "attach", "nonsense", ""])
def test_other_operations_are_none_of_ours(operation: str, call: Called) -> None:
    call.configure(REQUIRES)
    assert call(operation) == PASS
    assert call.logged == []


def test_no_arguments_at_all(call: Called) -> None:
    assert hook.main([], str(call.config_file)) == PASS
    assert hook.main(["web"], str(call.config_file)) == PASS


SECRET = domain("<oops passwd='hunter2'>")


@pytest.mark.parametrize("operation", ["prepare", "migrate", "restore", "release"])
@pytest.mark.parametrize("content", [SECRET, b"", b"hunter2", WITH.replace(b"</domain>", b"<passwd>hunter2")])
def test_trouble_is_one_line_without_secrets(operation: str, content: bytes, call: Called) -> None:
    call.configure(REQUIRES)
    assert call(operation, content) == PASS
    ((level, text),) = call.logged
    assert level == syslog.LOG_ERR
    assert text.startswith(f"hook: {operation}: MalformedXml: line ")
    assert text.endswith("; this call changes nothing")
    assert "\n" not in text
    assert "hunter2" not in text


@pytest.mark.parametrize("operation", ["prepare", "migrate", "restore", "release"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit, MemoryError])
def test_a_bug_of_ours_stops_nobody(
    operation: str, error: type[BaseException], call: Called, monkeypatch: pytest.MonkeyPatch
) -> None:
    call.configure(REQUIRES)

    def broken(_: object) -> object:
        raise error("broken")

    monkeypatch.setattr(glance, "at", broken)
    assert call(operation) == PASS
    assert call.logged == [
        (syslog.LOG_ERR, f"hook: {operation}: {error.__name__}: broken; this call changes nothing")
    ]


def test_a_broken_configuration_is_one_line(call: Called) -> None:
    call.config_file.write_text("[domains]\nrequire = 'perhaps'")
    assert call("prepare") == PASS
    ((level, text),) = call.logged
    assert level == syslog.LOG_ERR
    assert "ConfigError: " in text
    assert "domains.require is 'perhaps'" in text


def test_without_a_configuration_there_are_defaults(
    call: Called, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert call("migrate", WITH) == ANSWER == 4
    assert b">/dev/random<" in capfdbinary.readouterr().out
    assert call.logged == []


def test_a_mark_that_cannot_be_left_stops_no_arrival(
    call: Called, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    call.configure(REQUIRES)
    call.run_dir.with_name("run-hook").write_text("a file in the way")
    assert call("migrate", WITH) == ANSWER == 4
    assert b">/dev/random<" in capfdbinary.readouterr().out
    ((level, text),) = call.logged
    assert level == syslog.LOG_ERR
    assert text.endswith("; its prepare will look like a fresh start")


@pytest.mark.parametrize(("later_s", "answer"), [(0.0, PASS), (60.0, PASS), (60.01, REFUSE), (-0.01, REFUSE)])
def test_a_mark_lives_for_a_minute_of_the_boot_clock(later_s: float, answer: int, call: Called) -> None:
    call.configure(REQUIRES)
    assert call("restore") == PASS
    call.now_s += later_s
    assert call("prepare") == answer
    assert call("prepare") == REFUSE


@pytest.mark.parametrize("written", [UUID, UUID.upper(), UUID.replace("-", "")])
def test_the_uuid_is_parsed_and_printed_again(written: str, tmp_path: Path) -> None:
    marks.leave(tmp_path / "run", written)
    assert [mark.name for mark in (tmp_path / "run-hook").iterdir()] == [UUID]
    assert marks.take(tmp_path / "run", UUID)
    assert not marks.take(tmp_path / "run", UUID)


@pytest.mark.parametrize(
    "bad", ["", "..", f"../{UUID}", f"{UUID}/../x", "x" * 32, "0x" + "1" * 30, "1_" * 16, " " + "1" * 31]
)
def test_what_is_no_uuid_becomes_no_path(bad: str, tmp_path: Path) -> None:
    for act in (marks.leave, marks.take):
        with pytest.raises(ValueError, match="badly formed"):
            act(tmp_path / "run", bad)
    assert [*tmp_path.iterdir()] == []


def test_a_fifo_in_the_place_of_a_mark_is_not_waited_for(call: Called) -> None:
    call.configure(REQUIRES)
    call.run_dir.with_name("run-hook").mkdir()
    os.mkfifo(call.run_dir.with_name("run-hook") / UUID)
    assert call("prepare") == REFUSE
    os.mkfifo(call.run_dir.with_name("run-hook") / UUID)
    assert call("restore") == PASS
    assert [level for level, _ in call.logged] == [syslog.LOG_ERR]


@pytest.mark.parametrize("name", ["web", "../web"])
def test_a_saved_image_that_would_bring_it_back_without_is_named(
    name: str, call: Called, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    saved = tmp_path / "saved"
    saved.mkdir()
    (saved / f"{name}.save").write_bytes(b"")
    monkeypatch.setattr(hook, "SAVED_IMAGES_DIR", str(saved))
    call.configure(REQUIRES)
    assert call("prepare", domain(name=name)) == REFUSE
    named = "run 'virtrng enable web' and 'virsh managedsave-remove web', since its saved image has none"
    assert (named in capfd.readouterr().err) is (name == "web")


# --- what would keep libvirt waiting


def test_a_definition_without_end_is_not_read_to_it(call: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(hook, "XML_BYTES_MAX", 1000)
    monkeypatch.setattr(syslog, "syslog", lambda level, text: call.logged.append((level, text)))
    call.configure(REQUIRES)
    with (call.config_file.parent / "stdin").open("wb+") as file:
        file.write(domain().ljust(1001))
        file.seek(0)
        kept = os.dup(0)
        os.dup2(file.fileno(), 0)
        try:
            assert hook.main(["web", "prepare"], str(call.config_file)) == PASS
        finally:
            os.dup2(kept, 0)
            os.close(kept)
    assert [text for _, text in call.logged] == [
        "hook: prepare: ValueError: the definition is larger than 1000 bytes; this call changes nothing"
    ]


def test_nor_a_configuration(call: Called) -> None:
    call.configure(f"{REQUIRES}\n#{'x' * hook.CONFIG_BYTES_MAX}")
    assert call("prepare") == PASS
    ((_, text),) = call.logged
    assert "virtrng.toml is larger than 1048576 bytes" in text


def test_a_configuration_that_is_no_file_is_not_opened(call: Called) -> None:
    os.mkfifo(call.config_file)
    assert call("prepare") == PASS
    ((_, text),) = call.logged
    assert "virtrng.toml is not a regular file" in text


# --- require_feeder

FEEDING = f"{REQUIRES}\nrequire_feeder = true"


def seeded(call: Called, at_s: float | None) -> None:
    pool = KernelStatus(1, 256, 2500, None if at_s is None else 1.0, at_s, 256)
    status.write(call.run_dir, FeederStatus(1.0, 1, (), pool))


@pytest.mark.parametrize(
    ("interval_s", "age_s", "answer"),
    [(10, 60.0, PASS), (10, 60.1, REFUSE), (100, 300.0, PASS), (100, 300.1, REFUSE), (1, 60.0, PASS),
     (10, -5.0, REFUSE), (10, None, REFUSE)],
)  # fmt: skip
def test_a_seed_is_fresh_for_a_minute_or_three_intervals(
    interval_s: int, age_s: float | None, answer: int, call: Called
) -> None:
    call.configure(f"[feeder]\ninterval_s = {interval_s}\n{FEEDING}")
    seeded(call, None if age_s is None else call.now_s - age_s)
    assert call("prepare", WITH) == answer


@pytest.mark.parametrize(("uptime_s", "answer"), [(119.9, PASS), (120.0, REFUSE)])
@pytest.mark.parametrize("seeded_before", [True, False])
def test_a_host_that_has_just_started_is_let_pass(
    uptime_s: float, answer: int, *, seeded_before: bool, call: Called, capfd: pytest.CaptureFixture[str]
) -> None:
    call.configure(FEEDING)
    call.now_s = uptime_s
    if seeded_before:
        seeded(call, 10.0)
    assert call("prepare", WITH) == answer
    said = f"the last seed is {uptime_s - 10:.0f} s old" if seeded_before else "no seed was given since boot"
    refusal = f"{said}, and this host's policy requires a feeding key: see 'virtrng status'"
    if answer == PASS:
        assert call.logged == [
            (syslog.LOG_WARNING, f"hook: {said}; the host has just started, so it is let pass")
        ]
    else:
        assert call.logged == [(syslog.LOG_NOTICE, f"hook: start of web refused: {refusal}")]
        assert capfd.readouterr().err == f"virtrng: {refusal}\n"


def test_the_feeder_is_asked_for_only_with_require(call: Called) -> None:
    call.configure("[domains]\nrequire_feeder = true")
    assert call("prepare", WITH) == PASS
    call.configure("[domains]\nrequire = 'warn'\nrequire_feeder = true")
    assert call("prepare", WITH) == PASS
    assert [level for level, _ in call.logged] == [syslog.LOG_WARNING]


def test_a_device_that_is_no_virtio_is_none(call: Called) -> None:
    call.configure(REQUIRES)
    assert call("prepare", domain("<rng model='other'><backend model='random'/></rng>")) == REFUSE
    assert (
        call("prepare", domain("<rng model='virtio-transitional'><backend model='builtin'/></rng>")) == PASS
    )


def test_the_guests_own_wish_has_no_say(call: Called) -> None:
    call.configure(REQUIRES)
    wish = b"<metadata><v:guest xmlns:v='urn:virtrng:domain:1' device='off'/></metadata><devices>"
    assert call("prepare", WITHOUT.replace(b"<devices>", wish)) == REFUSE
