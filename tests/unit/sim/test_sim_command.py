# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng simulate`: as a process on a terminal, and what it says to who asks for something else."""

import base64
import json
import os
import select
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.unit.support import ROOT
from virtrng import cli
from virtrng.errors import BadKeyring, BadMasterKey, FileFailed, PlaceTaken
from virtrng.keys.entropykey import keyring
from virtrng.keys.entropykey.frames import FrameReader, FrameType
from virtrng.sim import usbip
from virtrng.sim.entropykey import SERIAL, master_key_card
from virtrng.sim.faults import FAULTS

M_AND_L = b"MTa2VVJmaLoKGio6Slpqeoqaqr."  # of the vectors, for:
VECTOR_SERIAL = "NwBvBlg3OTBJORFD"
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Running:
    """The command as a process, and what it told at its start."""

    process: "subprocess.Popen[str]"
    told: dict[str, Any]


@contextmanager
def running(link: Path | None, *options: str) -> Iterator[Running]:
    """Start it, over USB/IP without a link; it is gone when the block ends, whatever happened."""
    place = ["--usbip", "0"] if link is None else ["--pty", str(link)]
    words = [
        sys.executable,
        "-m",
        "virtrng",
        "simulate",
        "entropykey",
        *place,
        "--json",
        *options,
    ]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    try:
        yield Running(process, json.loads("".join(iter(process.stdout.readline, "}\n")) + "}"))
    finally:
        process.kill()
        process.communicate()


@contextmanager
def host(link: Path) -> Iterator[int]:
    descriptor = os.open(link, os.O_RDWR | os.O_NOCTTY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def frame_of(descriptor: int, kind: FrameType, reader: FrameReader) -> bytes:
    """Return what the MAC covers of the next frame of this kind; fails when a minute brings none."""
    while select.select([descriptor], [], [], PATIENCE_S)[0]:
        for frame in reader.feed(os.read(descriptor, 64)):
            if frame is not None and frame.type is kind:
                return frame.covered
    raise AssertionError(f"no {kind}")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_is_a_key_until_it_is_told_to_end(number: signal.Signals, tmp_path: Path) -> None:
    link = tmp_path / "key"
    with running(link, "--serial", VECTOR_SERIAL) as key:
        for _ in range(3):
            with host(link) as terminal:
                assert not termios.tcgetattr(terminal)[3] & (termios.ECHO | termios.ICANON)
                os.write(terminal, b"\x03")
                covered = frame_of(terminal, FrameType.SERIAL_NUMBER, FrameReader())
                assert covered.rstrip() == f"S!AA{VECTOR_SERIAL}".encode()
        with host(link) as terminal:
            key.process.send_signal(number)
            assert key.process.communicate() == ("", "")
            assert key.process.returncode == 0
            while os.read(terminal, 4096):
                pass
    assert list(tmp_path.iterdir()) == []


def test_what_it_tells(tmp_path: Path) -> None:
    link = tmp_path / "key"
    with running(link, "--seed", "s", "--rate", "5000", "--fault", "drop@3", "--fault", "stall@1%") as key:
        told = key.told
        assert os.readlink(link) == told.pop("terminal")
        long_term_key = told.pop("keyring_line").removeprefix(f"{SERIAL} ")
        assert len(base64.b64decode(long_term_key)) == 32
        assert told == {
            "kind": "entropykey",
            "serial": SERIAL,
            "link": str(link),
            "master_key": "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9Q",
            "rate_bytes_per_s": 5000.0,
            "seed": "s",
            "simulated": True,
            "faults": ["drop", "stall"],
        }


def test_paired_it_remembers(tmp_path: Path) -> None:
    link, memory = tmp_path / "key", tmp_path / "memory"
    options = ("--serial", VECTOR_SERIAL, "--long-term-key-file", str(memory))
    with running(link, *options) as key:
        first = keyring.long_term_key(memory, VECTOR_SERIAL)
        assert memory.read_text() == key.told["keyring_line"] + "\n"
        with host(link) as terminal:
            os.write(terminal, b"\x03" + M_AND_L)
            frame_of(terminal, FrameType.LONG_TERM_REKEY, FrameReader())
        key.process.terminate()
        key.process.wait()
    second = keyring.long_term_key(memory, VECTOR_SERIAL)
    assert second != first
    with running(link, *options) as key:
        assert key.told["keyring_line"] == f"{VECTOR_SERIAL} {base64.b64encode(second).decode()}"


def test_an_unplugged_one_ends_by_itself(tmp_path: Path) -> None:
    with running(tmp_path / "key", "--fault", "unplug") as key:
        assert key.process.communicate() == ("", "")
        assert key.process.returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_over_usbip_it_is_a_key_until_it_is_told_to_end(number: signal.Signals) -> None:
    with running(None, "--serial", VECTOR_SERIAL, "--seed", "s") as key:
        told = key.told
        assert (told["host"], told["busid"], told["serial"]) == ("127.0.0.1", "1-1", VECTOR_SERIAL)
        with socket.create_connection((told["host"], told["port"]), PATIENCE_S) as importer:
            importer.sendall(bytes.fromhex("0111800300000000") + b"1-1".ljust(32, b"\0"))
            assert importer.recv(320, socket.MSG_WAITALL)[:8] == bytes.fromhex("0111000300000000")
            key.process.send_signal(number)
            assert key.process.communicate() == ("", "")
            assert key.process.returncode == 0
            assert importer.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((told["host"], told["port"]))


def test_over_usbip_an_unplugged_one_ends_by_itself() -> None:
    with running(None, "--fault", "unplug@0.01") as key:
        assert key.process.communicate() == ("", "")
        assert key.process.returncode == 0


# --- in this process


def run(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, str, str]:
    """Return how it ended, and what it printed; it unplugs itself at once."""
    code = cli.main(["simulate", "entropykey", *map(str, words), "--fault", "unplug"])
    captured = capsys.readouterr()
    return int(code), captured.out, captured.err


def test_what_it_tells_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    link = tmp_path / "a key"
    code, out, err = run(capsys, "--pty", link, "--seed", "s")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].endswith("nothing here is secret")
    card = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9Q"
    commands = [f"virtrng keys pair 'entropykey:{link}'", f"virtrng feed --key 'entropykey:{link}'"]
    for part in (SERIAL, str(link), card, "/dev/pts/", "Ctrl-C", *commands):
        assert part in out


def test_what_it_tells_people_over_usbip(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--usbip", "0", "--seed", "s")
    assert (code, err) == (0, "")
    port = out.split("port")[1].split()[0]
    attach = f"usbip --tcp-port {port} attach --remote 127.0.0.1 --busid 1-1"
    for part in (SERIAL, attach, "vhci-hcd", f"virtrng keys pair {SERIAL}", "Ctrl-C"):
        assert part in out


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with usbip.listening(0) as listener:
        port = listener.getsockname()[1]
        code, out, err = run(capsys, "--usbip", str(port))
    assert (code, out) == (1, "")
    assert f"127.0.0.1:{port} cannot hold a simulated key: Address already in use\n" in err


def test_without_a_seed_it_tells_one_that_is_never_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [json.loads(run(capsys, "--pty", tmp_path / "key", "--json")[1]) for _ in range(2)]
    assert told[0]["seed"] != told[1]["seed"]
    assert told[0]["keyring_line"] != told[1]["keyring_line"]


def test_signals_are_as_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)]
    run(capsys, "--pty", tmp_path / "key")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_a_master_key_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "card").write_text("AAEC AwQF BgcI CQoL DA0O DxAR EhMU FRYX GBka Gxwd Hh9Q\n")
    _, out, _ = run(capsys, "--pty", tmp_path / "key", "--master-key-file", tmp_path / "card", "--json")
    assert json.loads(out)["master_key"] == master_key_card(bytes(range(32)))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh9R", "check byte does not match"),
        (b"", "is not 44 characters long"),
        (b"?", "not base64"),
        (b"\xff\xfe", "not base64"),
    ],
)
def test_a_bad_master_key(
    content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = tmp_path / "card"
    card.write_bytes(content)
    code, out, err = run(capsys, "--pty", tmp_path / "key", "--master-key-file", card)
    assert (code, out) == (1, "")
    sentence, remedy = err.splitlines()
    assert sentence.startswith(f"virtrng: {card}: ")
    assert "the master key" in sentence
    assert said in sentence
    assert remedy.strip() == BadMasterKey.hint
    assert not (tmp_path / "key").is_symlink()


def test_other_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory = tmp_path / "memory"
    memory.write_text("something else\n")
    memory.chmod(0o600)
    file = ["--pty", tmp_path / "key", "--long-term-key-file"]
    for words, kind in (
        (["--pty", memory], PlaceTaken),
        (["--pty", tmp_path / "key", "--master-key-file", tmp_path / "none"], FileFailed),
        ([*file, memory], BadKeyring),
        ([*file, tmp_path / "memory" / "none"], FileFailed),
    ):
        code, out, err = run(capsys, *words)  # type: ignore[arg-type]
        assert (code, out) == (kind.exit_code, "")
        assert kind.sentence.split("}")[1].split("{")[0] in err
    assert memory.read_text() == "something else\n"


def test_other_keys_in_its_memory_are_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    memory = tmp_path / "memory"
    told = []
    for serial in (SERIAL, VECTOR_SERIAL, SERIAL):
        code, out, _ = run(
            capsys, "--json", "--pty", tmp_path / "key", "--serial", serial, "--long-term-key-file", memory
        )
        assert code == 0
        told.append(json.loads(out)["keyring_line"])
    assert told[0] == told[2]
    assert memory.read_text().splitlines() == told[:2]


# --- usage


def test_help_lists_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["simulate", "--help"]) == 0
    out = capsys.readouterr().out
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert all(help_ in lines[name] for name, help_ in FAULTS.items())
    assert "NAME@SECONDS" in out
    assert max(map(len, out.splitlines())) <= 100


def test_the_manual_page_has_the_same_faults() -> None:
    page = (ROOT / "docs" / "virtrng.8").read_text().replace("\\-", "-")
    assert [name for name, help_ in FAULTS.items() if f"\n{name}\t{help_}\n" not in page] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "the following arguments are required: KIND"),
        (["chaoskey", "--pty", "x"], "argument KIND: invalid choice: 'chaoskey'"),
        (["entropykey"], "one of the arguments --pty --usbip is required"),
        (["entropykey", "--pty", "x", "--usbip", "0"], "argument --usbip: not allowed with argument --pty"),
        (["entropykey", "--usbip", "65536"], "'65536' is not a port: it must be a number from 0 to 65535"),
        (["entropykey", "--usbip", "-1"], "'-1' is not a port"),
        (["entropykey", "--pty", "x", "--rate", "0"], "'0' is not a number of bytes a second, more than 0"),
        (["entropykey", "--pty", "x", "--rate", "nan"], "'nan' is not a number of bytes a second"),
        (["entropykey", "--pty", "x", "--rate", "1e3"], "'1e3' is not a number of bytes a second"),
        (["entropykey", "--pty", "x", "--rate", "10000001"], "at most 10,000,000"),
        (["entropykey", "--pty", "x", "--serial", "short"], "'short' is not a serial: it must be 16 base64"),
        (["entropykey", "--pty", "x", "--serial", "AAAAAAAAAAAAAAA?"], "is not a serial"),
        (["entropykey", "--pty", "x", "--fault", "nonsense"], "no fault is called 'nonsense'; there are: "),
        (["entropykey", "--pty", "x", "--fault", "drop@x"], "'x' in 'drop@x' is neither a number of seconds"),
        (["entropykey", "--pty", "x", "--fault", "drop@0%"], "'0%' in 'drop@0%' is no chance"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_usage(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["simulate", *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
