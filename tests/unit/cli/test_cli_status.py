# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng status` in all its states, with libvirt's own test driver for guests."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Command, Ran
from virtrng import files, kernel, status
from virtrng.domain import hypervisor
from virtrng.errors import ExitCode, HypervisorFault, NoHypervisor
from virtrng.status import FeederStatus, KernelStatus, KeyStatus

KEY = KeyStatus(
    "entropykey", "a/b", "ok", simulated=False, bytes_read=10_000, blocks_tested=4, blocks_failed=1,
    frames_bad=2, sessions=1, last_fault=None,
)  # fmt: skip
NOW_S = 10_000.0
FED = FeederStatus(1.0, 42, (KEY,), KernelStatus(3, 768, 7500, 1.0, NOW_S - 5, 256))
READY = "pool    the kernel's generator is ready"


@pytest.fixture
def show(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    file = tmp_path / "virtrng.toml"
    file.write_text(f"[paths]\nrun_dir = '{tmp_path}/run'\n")
    monkeypatch.setattr(kernel, "boottime_s", lambda: NOW_S)

    def run(*arguments: str, uri: str = "test:///default") -> Ran:
        return command("--config-file", file, "-c", uri, "status", *arguments)

    return run


@contextmanager
def running(run_dir: Path) -> Iterator[str]:
    lock = files.Lock(run_dir / status.LOCK_NAME)
    name = f"virtrng feed (pid {os.getpid()})"
    assert lock.acquire(name) is None
    yield name
    lock.release()


def host_lines(ran: Ran) -> list[str]:
    assert (ran.code, ran.err) == (0, "")
    return ran.lines[: ran.lines.index("")]


def test_no_feeder(show: Callable[..., Ran]) -> None:
    assert host_lines(show()) == [
        "fed     no: no feeder runs",
        "feeder  not running ('virtrng feed')",
        READY,
    ]


def test_fed(show: Callable[..., Ran], tmp_path: Path) -> None:
    status.write(tmp_path / "run", FED)
    with running(tmp_path / "run") as name:
        assert host_lines(show()) == [
            "fed     yes, from a hardware key; last seed 5 seconds ago",
            f"feeder  {name}: 3 seeds, 768 bits credited, made of 7,500 tested bytes",
            "key     entropykey:serial=a/b: ok, 10,000 bytes read, 4 blocks tested, 1 failed, 2 bad frames",
            READY,
        ]


def test_a_feeder_that_waits_says_why(show: Callable[..., Ran], tmp_path: Path) -> None:
    for waiting, told in (
        ("k has no long-term key", "k has no long-term key"),
        (None, "it has just started"),
    ):
        status.write(tmp_path / "run", replace(FED, keys=(), waiting=waiting))
        with running(tmp_path / "run"):
            assert f"key     none; the feeder waits: {told}" in host_lines(show())


def test_fed_by_a_simulated_key(show: Callable[..., Ran], tmp_path: Path) -> None:
    key = replace(KEY, simulated=True, last_fault="block 2 dropped: it failed runs")
    status.write(tmp_path / "run", replace(FED, keys=(key,), kernel=replace(FED.kernel, seeded_bits=0)))
    with running(tmp_path / "run"):
        lines = host_lines(show())
    assert lines[0] == "fed     only by a simulated key, with a credit of 0; last seed 5 seconds ago"
    assert "0 bits credited" in lines[1]
    assert lines[2].startswith("key     entropykey:serial=a/b (simulated by virtrng): ok, ")
    assert lines[2].endswith("; last fault: block 2 dropped: it failed runs")


TELEMETRY = {
    "temperature_k": 314.3,
    "supply_v": 3.254,
    "fips_blocks": 7342,
    "fips_failures": 6,
    "fips_blocks_per_s": 1.61,
    "raw_xor_shannons_per_byte": 2.929,
    "left_ports": 2,
}


def test_what_a_key_says_of_itself(show: Callable[..., Ran], tmp_path: Path) -> None:
    key = replace(KEY, telemetry=TELEMETRY, verdict="no failure")
    status.write(tmp_path / "run", replace(FED, keys=(key,)))
    with running(tmp_path / "run"):
        lines = host_lines(show())
        (document,) = show("--json").json["feeder"]["status"]["keys"]
    assert lines[3:5] == [
        "        it says of itself: no failure, temperature 41.2 °C, supply 3.254 V, FIPS blocks 7,342,",
        "        FIPS failures 6, FIPS blocks 1.61/s, raw XOR 2.93 Sh/byte, left ports 2",
    ]
    assert (document["telemetry"], document["verdict"]) == (TELEMETRY, "no failure")


def test_what_a_key_said_that_is_absent(show: Callable[..., Ran], tmp_path: Path) -> None:
    key = replace(KEY, state="absent", verdict="its temperature is too high")
    status.write(tmp_path / "run", replace(FED, keys=(key,)))
    with running(tmp_path / "run"):
        assert host_lines(show())[3] == "        it was last heard to say: its temperature is too high"


@pytest.mark.parametrize(
    ("age_s", "told"),
    [(0.4, "0 seconds"), (1.0, "1 second"), (60.0, "60 seconds")],
)
def test_a_seed_is_young_for_a_minute(
    age_s: float, told: str, show: Callable[..., Ran], tmp_path: Path
) -> None:
    kernel_status = replace(FED.kernel, last_seed_boottime_s=NOW_S - age_s)
    status.write(tmp_path / "run", replace(FED, kernel=kernel_status))
    with running(tmp_path / "run"):
        assert show().lines[0] == f"fed     yes, from a hardware key; last seed {told} ago"


@pytest.mark.parametrize(("age_s", "told"), [(61.0, "61 seconds"), (150.0, "2 minutes"), (9000.0, "2 hours")])
def test_an_old_seed(age_s: float, told: str, show: Callable[..., Ran], tmp_path: Path) -> None:
    kernel_status = replace(FED.kernel, last_seed_boottime_s=NOW_S - age_s)
    status.write(tmp_path / "run", replace(FED, kernel=kernel_status))
    with running(tmp_path / "run"):
        assert show().lines[0] == f"fed     no: the last seed is {told} old"
    assert show().lines[0] == f"fed     no: no feeder runs; the last seed is {told} old"


def test_a_seed_is_young_for_three_intervals(show: Callable[..., Ran], tmp_path: Path) -> None:
    file = tmp_path / "virtrng.toml"
    file.write_text(file.read_text() + "[feeder]\ninterval_s = 100\n")
    for age_s, answer in ((300.0, "yes, from"), (301.0, "no: the last seed is 5 minutes old")):
        kernel_status = replace(FED.kernel, last_seed_boottime_s=NOW_S - age_s)
        status.write(tmp_path / "run", replace(FED, kernel=kernel_status))
        with running(tmp_path / "run"):
            assert show().lines[0].startswith(f"fed     {answer}")


def test_a_feeder_without_a_seed_or_a_status(show: Callable[..., Ran], tmp_path: Path) -> None:
    with running(tmp_path / "run") as name:
        assert host_lines(show())[1] == f"feeder  {name}; it has written no status"
        none_yet = replace(FED.kernel, seeds=0, last_seed_at=None, last_seed_boottime_s=None)
        status.write(tmp_path / "run", replace(FED, kernel=none_yet))
        assert show().lines[0] == "fed     not yet: no seed was given since the feeder started"


def test_a_seed_of_another_boot_has_no_age(show: Callable[..., Ran], tmp_path: Path) -> None:
    kernel_status = replace(FED.kernel, last_seed_boottime_s=NOW_S + 1)
    status.write(tmp_path / "run", replace(FED, kernel=kernel_status))
    assert show().lines[0] == "fed     no: no feeder runs"


def test_a_broken_status_file_is_an_error(show: Callable[..., Ran], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "feeder.json").write_text("{")
    ran = show()
    assert (ran.code, ran.out) == (1, b"")
    assert ran.err.splitlines()[1] == "  restart the feeder; it writes the file anew"


def test_a_generator_that_is_not_ready(show: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "crng_ready", lambda: False)
    assert host_lines(show())[2] == "pool    the kernel's generator is not ready yet"
    assert show("--json").json["pool"] == {"ready": False}


# --- guests


def test_guests_of_the_test_driver(show: Callable[..., Ran]) -> None:
    ran = show()
    header, _, *rows = ran.lines[ran.lines.index("") + 1 :]
    assert header.split("  ")[0] == "GUEST"
    assert [row.split() for row in rows] == [["test", "running", "none", "none"]]


def test_no_libvirt_is_told_and_no_error(show: Callable[..., Ran]) -> None:
    ran = show(uri="qemu+unix:///system?socket=/nonexistent")
    assert ran.code == 0
    assert ran.lines[-1].startswith(
        "guests  not known: no libvirt answers at qemu+unix:///system?socket=/non"
    )
    document = show("--json", uri="qemu+unix:///system?socket=/nonexistent").json
    assert document["guests"] is None
    assert document["guests_error"].startswith("no libvirt answers at ")  # NoHypervisor
    assert NoHypervisor.exit_code is ExitCode.FAILED


def test_json_with_a_feeder(show: Callable[..., Ran], tmp_path: Path) -> None:
    status.write(tmp_path / "run", FED)
    with running(tmp_path / "run") as name:
        document = show("--json").json
    assert list(document) == ["feeder", "pool", "guests", "guests_error"]
    assert document["feeder"]["running"] is True
    assert document["feeder"]["holder"] == name
    assert document["feeder"]["last_seed_age_s"] == 5.0
    assert document["feeder"]["status"]["kernel"]["seeded_bits"] == 768
    assert document["feeder"]["status"]["keys"][0]["serial"] == "a/b"
    assert document["pool"] == {"ready": True}
    assert document["guests_error"] is None


def test_json_without(show: Callable[..., Ran]) -> None:
    document = show("--json").json
    assert document["feeder"] == {"running": False, "holder": None, "last_seed_age_s": None, "status": None}
    (guest,) = document["guests"]
    assert guest == {
        "name": "test",
        "uuid": "6695eb01-f6a4-8304-79aa-97f2502e193f",
        "running": True,
        "definition": [],
        "live": [],
        "wanted": None,
    }


WITH_DEVICES = """
<domain type='test'>
  <name>other</name>
  <uuid>6695eb01-f6a4-8304-79aa-97f2502e1940</uuid>
  <metadata><virtrng:guest xmlns:virtrng="urn:virtrng:domain:1" device="off"/></metadata>
  <memory>4096</memory>
  <os><type>hvm</type></os>
  <devices>
    <rng model='virtio'>
      <rate bytes='1024' period='2000'/><backend model='random'>/dev/urandom</backend>
      <alias name='ua-virtrng0'/>
    </rng>
    <rng model='virtio'><backend model='egd' type='unix'>
      <source mode='connect' path='/run/egd'/></backend></rng>
  </devices>
</domain>
"""


def test_what_guests_have(show: Callable[..., Ran], tmp_path: Path) -> None:
    node = tmp_path / "node.xml"
    node.write_text(f"<node>{WITH_DEVICES}</node>")
    uri = f"test://{node}"
    ran = show(uri=uri)
    row = next(line for line in ran.lines if line.startswith("other"))
    both = "ours: /dev/urandom, 1024 B/2000 ms; foreign: egd, unlimited"
    assert row.replace(both, "BOTH").split() == ["other", "running", "BOTH", "BOTH", "no"]
    (guest,) = show("--json", uri=uri).json["guests"]
    assert guest["wanted"] is False
    assert guest["definition"][0] == {
        "ours": True,
        "model": "virtio",
        "backend": "random",
        "source": "/dev/urandom",
        "rate_bytes": 1024,
        "rate_period_ms": 2000,
        "text": "/dev/urandom, 1024 B/2000 ms",
    }
    assert guest["definition"][1]["source"] is None
    assert guest["definition"][1]["rate_bytes"] is None


def test_a_host_without_guests(
    show: Callable[..., Ran], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypervisor.Hypervisor, "guests", lambda _self: [])
    ran = show()
    assert ran.lines[-1] == "guests  none"
    assert show("--json").json["guests"] == []


def test_a_libvirt_that_fails_midway(show: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_self: object) -> list[object]:
        raise HypervisorFault("list the guests", "internal error")

    monkeypatch.setattr(hypervisor.Hypervisor, "guests", fail)
    ran = show()
    assert ran.code == 0
    assert ran.lines[-1] == "guests  not known: libvirt failed to list the guests: internal error"


def test_the_default_uri_of_the_environment(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIBVIRT_DEFAULT_URI", "test:///default")
    assert [guest["name"] for guest in command("status", "--json").json["guests"]] == ["test"]
