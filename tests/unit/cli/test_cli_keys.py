# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng keys`: listed without being opened, supported, captured."""

import os
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tests.unit.cli.conftest import Command
from tests.unit.support import NOBODY, in_child, is_root
from virtrng import cli
from virtrng.cli import holders, keys
from virtrng.errors import ExitCode, KeyDenied, KeyInUse, KeyLost, NoKey, NoLongTermKey
from virtrng.feeder import source
from virtrng.keys import KEYS
from virtrng.keys.base import Key, Noise
from virtrng.keys.entropykey import EntropyKey
from virtrng.keys.entropykey.keyring import store
from virtrng.sim.entropykey import SERIAL
from virtrng.transport import scan
from virtrng.transport.scan import UsbDevice

KEY = UsbDevice(
    0x20DF, 1, "M/IYATBjUU1ACsGt", "Simtec Electronics", "Entropy Key", 1, 2, "/dev/bus/usb/001/002"
)
SIMULATED = replace(
    KEY,
    serial="S",
    manufacturer="Simtec Electronics, simulated by virtrng",
    address=3,
    node="/dev/bus/usb/001/003",
)


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def plug_in(*devices: UsbDevice, holder: str | None = None) -> None:
        monkeypatch.setattr(scan, "usb_devices", lambda: list(devices))
        monkeypatch.setattr(scan, "holder", lambda node: holder if node == KEY.node else None)

    return plug_in


def test_none(command: Command, plug_in: Callable[..., None]) -> None:
    plug_in(replace(KEY, product_id=9))
    ran = command("keys")
    assert (ran.code, ran.out) == (ExitCode.NO_KEY, b"")
    assert ran.code == 4
    assert ran.err.splitlines() == [
        "virtrng: no supported key is plugged in",
        f"  {NoKey.hint}",
    ]
    ran = command("keys", "--json")
    assert (ran.code, ran.json) == (4, {"keys": []})


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    store(tmp_path / "keyring", KEY.serial, bytes(32))
    return tmp_path / "keyring"


@pytest.fixture(autouse=True)
def as_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what only root sees be seen; a test that is about others says so."""
    monkeypatch.setattr(keys, "_sees_holders", lambda: True)


def test_list(command: Command, plug_in: Callable[..., None], keyring: Path) -> None:
    plug_in(KEY, SIMULATED, holder="ekeyd (pid 7)")
    ran = command("keys", "--keyring", keyring)
    assert (ran.code, ran.err) == (0, "")
    assert ran.lines[0].split() == ["KEY", "PRODUCT", "NODE", "PAIRED", "IN", "USE", "BY"]
    assert ran.lines[2].split() == [
        "entropykey:serial=M/IYATBjUU1ACsGt", "Simtec", "Electronics", "Entropy", "Key",
        "/dev/bus/usb/001/002", "yes", "ekeyd", "(pid", "7)",
    ]  # fmt: skip
    assert "simulated by virtrng" in ran.lines[3]
    assert ran.lines[3].split()[-2:] == ["no", "nobody"]


def test_list_json(command: Command, plug_in: Callable[..., None], keyring: Path) -> None:
    plug_in(KEY, SIMULATED, holder="ekeyd (pid 7)")
    first, second = command("keys", "--json", "--keyring", keyring).json["keys"]
    assert first.pop("remedy").startswith("'systemctl stop ekeyd' first")
    assert first == {
        "kind": "entropykey",
        "serial": "M/IYATBjUU1ACsGt",
        "product": "Entropy Key",
        "manufacturer": "Simtec Electronics",
        "simulated": False,
        "node": "/dev/bus/usb/001/002",
        "paired": True,
        "holder": "ekeyd (pid 7)",
        "state": KeyInUse.code,
        "message": "entropykey:serial=M/IYATBjUU1ACsGt is in use by ekeyd (pid 7)",
    }
    assert (second["simulated"], second["holder"], second["paired"]) == (True, None, False)
    assert second["state"] == NoLongTermKey.code


# --- one clear sentence for each, and the remedy


def told(command: Command, *arguments: str | Path) -> list[str]:
    """Return what stands below the table: a sentence and its remedy for each key."""
    ran = command("keys", *arguments)
    assert (ran.code, ran.err) == (0, "")
    lines = ran.lines[ran.lines.index("") :]
    assert lines[::3] == [""] * (len(lines) // 3)
    return [line for line in lines if line]


def test_a_key_that_is_ready(command: Command, plug_in: Callable[..., None], keyring: Path) -> None:
    plug_in(KEY)
    assert told(command, "--keyring", keyring) == [
        "entropykey:serial=M/IYATBjUU1ACsGt is paired, and nobody uses it",
        "  'systemctl start virtrng-feeder' feeds the pool from it",
    ]
    assert command("keys", "--json", "--keyring", keyring).json["keys"][0]["state"] == "ready"


def test_a_key_that_is_not_paired(command: Command, plug_in: Callable[..., None], tmp_path: Path) -> None:
    plug_in(KEY)
    assert told(command, "--keyring", tmp_path / "none") == [
        f"{tmp_path}/none has no long-term key for the Entropy Key M/IYATBjUU1ACsGt",
        (
            "  'virtrng keys pair M/IYATBjUU1ACsGt' pairs it, with the card that came with it; "
            "'virtrng keys import-ekeyd' takes over ekeyd's keyring"
        ),
    ]


def test_a_key_that_ekeyd_has(command: Command, plug_in: Callable[..., None], keyring: Path) -> None:
    plug_in(KEY, holder="ekeyd (pid 7)")
    assert told(command, "--keyring", keyring) == [
        "entropykey:serial=M/IYATBjUU1ACsGt is in use by ekeyd (pid 7)",
        (
            "  'systemctl stop ekeyd' first; to move from it for good: 'systemctl disable --now ekeyd' "
            "and 'virtrng keys import-ekeyd'"
        ),
    ]


def test_a_key_that_our_service_has(
    command: Command,
    plug_in: Callable[..., None],
    keyring: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text("0::/system.slice/virtrng-feeder.service\n")
    monkeypatch.setattr(holders, "_PROC", tmp_path / "proc")
    plug_in(KEY, holder="python3 (pid 7)")
    assert told(command, "--keyring", keyring) == [
        "entropykey:serial=M/IYATBjUU1ACsGt feeds the pool",
        "  'virtrng status' tells more",
    ]
    (key,) = command("keys", "--json", "--keyring", keyring).json["keys"]
    assert key["state"] == "feeding"
    assert key["holder"] == "virtrng feed, the service virtrng-feeder (pid 7)"


def test_a_key_whose_node_is_not_ours_to_open(
    command: Command, plug_in: Callable[..., None], keyring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plug_in(KEY)
    monkeypatch.setattr(os.path, "exists", lambda _: True)
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    assert told(command, "--keyring", keyring) == [
        "no permission to open entropykey:serial=M/IYATBjUU1ACsGt at /dev/bus/usb/001/002",
        "  run as root",
    ]
    assert command("keys", "--json", "--keyring", keyring).json["keys"][0]["state"] == KeyDenied.code


def test_what_an_ordinary_user_cannot_know(open_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store(open_path / "keyring", KEY.serial, bytes(32))

    def attempt() -> int:
        monkeypatch.undo()
        scan.usb_devices = lambda: [KEY]
        with (open_path / "stdout").open("w") as sys.stdout:
            return int(cli.main(["keys", "--keyring", str(open_path / "keyring")]))

    if not is_root():
        (open_path / "keyring").chmod(0)
    assert in_child(attempt, nobody=True) == "0"
    lines = (open_path / "stdout").read_text().splitlines()
    assert lines[2].count("unknown: no permission") == 2, "whether it is paired, and who uses it"
    user = NOBODY if is_root() else os.getuid()
    assert lines[4] == f"{open_path}/keyring: user {user} may not read it"
    assert lines[5].startswith("  run as root")


@pytest.mark.parametrize("content", ["nonsense\n", "wide"])
def test_a_keyring_that_is_not_as_it_must_be(
    content: str, command: Command, plug_in: Callable[..., None], keyring: Path
) -> None:
    if content == "wide":
        keyring.chmod(0o644)
    else:
        keyring.write_text(content)
    plug_in(KEY)
    sentence, _ = told(command, "--keyring", keyring)
    assert sentence == f"{keyring}: " + ("its mode is 0644" if content == "wide" else "line 1 is malformed")
    assert "unknown: bad keyring" in command("keys", "--keyring", keyring).lines[2]


def test_a_serial_with_markup_is_printed_as_it_is(command: Command, plug_in: Callable[..., None]) -> None:
    plug_in(replace(KEY, serial="[red]x[/red]", product=":smile:"))
    assert "entropykey:serial=[red]x[/red]" in command("keys").out.decode()
    assert ":smile:" in command("keys").out.decode()


def test_supported(command: Command) -> None:
    ran = command("keys", "--supported")
    assert (ran.code, ran.err) == (0, "")
    assert [line.split() for line in ran.lines[2:]] == [
        [kind.name, *kind.title.split(), f"{usb.vendor_id:04x}:{usb.product_id:04x}"]
        for kind in KEYS
        for usb in kind.usb
    ]
    ran = command("keys", "--supported", "--json")
    assert ran.json == {
        "supported": [{"kind": "entropykey", "title": "Simtec Entropy Key", "usb_id": "20df:0001"}]
    }


# --- capture


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the simulated key's time pass without waiting for it."""
    now = [0.0]

    def simulated() -> Any:
        from virtrng.sim import entropykey as sim

        transport, key = sim.simulated(
            clock=lambda: now[0], sleep=lambda seconds: now.__setitem__(0, now[0] + seconds)
        )
        return EntropyKey(transport, lambda _serial: key, min_entropy=0.5, clock=lambda: now[0])

    monkeypatch.setitem(source.SIMULATED, "entropykey", simulated)


@pytest.mark.parametrize("size", [1, 31, 32, 33, 5000])
@pytest.mark.usefixtures("at_once")
def test_capture_writes_just_so_many_bytes(size: int, command: Command, tmp_path: Path) -> None:
    file = tmp_path / "raw"
    ran = command("keys", "capture", "--simulate", "entropykey", "--bytes", str(size), "--output", file)
    assert (ran.code, ran.err) == (0, "")
    assert ran.lines == [
        f"wrote {size} raw bytes of entropykey:serial={SERIAL} (simulated by virtrng) to {file}"
    ]
    assert file.stat().st_size == size
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [*tmp_path.iterdir()] == [file]


@pytest.mark.usefixtures("at_once")
def test_capture_json(command: Command, tmp_path: Path) -> None:
    told = {"kind": "entropykey", "serial": SERIAL, "simulated": True, "bytes": 8, "file": f"{tmp_path}/raw"}
    words = ("keys", "capture", "--simulate", "entropykey", "--bytes", "8", "--output", tmp_path / "raw")
    assert command(*words, "--json").json == command("keys", "--json", *words[1:]).json == told


@pytest.mark.usefixtures("at_once")
def test_capture_makes_an_open_file_narrow(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "raw"
    file.write_bytes(b"old")
    file.chmod(0o666)
    assert command("keys", "capture", "--simulate", "entropykey", "--bytes", "8", "--output", file).code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


class Failing:
    """A key that gives 40 bytes, and then what it is told."""

    serial, simulated = "M/IYATBjUU1ACsGt", False

    def __init__(self, then: Exception | None) -> None:
        self.then = then
        self.reads = self.closed = 0

    def start(self) -> None:
        return

    def read(self, _timeout_ms: int) -> Noise | None:
        self.reads += 1
        if self.reads == 1:
            return Noise("k", bytes(40), 0)
        if self.then:
            raise self.then
        return None

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize(
    ("then", "sentence"),
    [
        (KeyLost("K", "being read"), "virtrng: K was lost while being read"),
        (None, "virtrng: the key M/IYATBjUU1ACsGt gave no valid frame for 10000 ms"),
    ],
    ids=["lost", "silent"],
)
def test_capture_that_fails_leaves_nothing_behind(
    then: Exception | None, sentence: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Failing(then)
    monkeypatch.setitem(source.SIMULATED, "entropykey", cast("Callable[[], Key]", lambda: key))
    arguments = ["keys", "capture", "--simulate", "entropykey", "--bytes", "100", "--output"]
    ran = command(*arguments, tmp_path / "raw")
    assert (ran.code, ran.out) == (1, b"")
    assert ran.err.splitlines()[0] == sentence
    assert [*tmp_path.iterdir()] == []
    assert key.closed == 1
    (tmp_path / "raw").write_bytes(b"old")
    key.reads = 0
    assert command(*arguments, tmp_path / "raw").code == 1
    assert (tmp_path / "raw").read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [tmp_path / "raw"]


@pytest.mark.usefixtures("at_once")
def test_capture_replaces_no_device(command: Command) -> None:
    ran = command("keys", "capture", "--simulate", "entropykey", "--bytes", "8", "--output", "/dev/null")
    assert ran.code == 1
    assert ran.err.splitlines()[0] == "virtrng: cannot replace /dev/null: it is not a regular file"
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_capture_of_a_key_that_is_not_there(
    command: Command, plug_in: Callable[..., None], tmp_path: Path
) -> None:
    arguments = ["keys", "capture", "nonesuch", "--bytes", "8", "--output", str(tmp_path / "raw")]
    plug_in()
    assert command(*arguments).code == 4
    plug_in(KEY)
    ran = command(*arguments)
    assert ran.code == 4
    assert ran.err.splitlines() == [
        "virtrng: no key matches 'nonesuch'",
        "  present: entropykey:serial=M/IYATBjUU1ACsGt",
    ]
    assert [*tmp_path.iterdir()] == []


def test_capture_of_a_key_without_its_long_term_key(
    command: Command, plug_in: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from virtrng.sim.entropykey import simulated

    plug_in(replace(KEY, serial=SERIAL))
    monkeypatch.setattr(source, "UsbTransport", lambda _key, _device: simulated(SERIAL)[0])
    ran = command(
        "keys",
        "capture",
        SERIAL,
        "--bytes",
        "8",
        "--output",
        tmp_path / "raw",
        "--keyring",
        tmp_path / "none",
    )
    assert ran.code == 1
    assert ran.err.splitlines() == [
        f"virtrng: {tmp_path}/none has no long-term key for the Entropy Key {SERIAL}",
        (
            f"  'virtrng keys pair {SERIAL}' pairs it, with the card that came with it; "
            "'virtrng keys import-ekeyd' takes over ekeyd's keyring"
        ),
    ]
