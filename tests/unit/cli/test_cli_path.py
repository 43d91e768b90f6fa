# SPDX-License-Identifier: LGPL-2.1-or-later
"""Keys named by their path: `feed`, `keys capture` and `status` on real terminals and sockets."""

import json
import re
import signal
import threading
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Command
from tests.unit.cli.test_cli_feed import REFUSED, feeding, line_with
from tests.unit.support import is_root, virtrng
from tests.unit.transport.served import KEYRING_LINE, listening, on_a_pty, to_the_client_of
from virtrng import status
from virtrng.errors import ExitCode, NoKeyAt, NoSuchKind
from virtrng.sim.entropykey import SERIAL

CREDIT = ", simulated by virtrng: mixed in with a credit of 0"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "virtrng.toml"
    file.write_text(f"[paths]\nrun_dir = '{tmp_path}/run'\n[feeder]\ninterval_s = 1\n")
    return file


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    file = tmp_path / "keyring"
    file.write_text(KEYRING_LINE)
    file.chmod(0o600)
    return file


# --- feed


def test_fed_over_a_pty_unplugged_and_found_again(config_file: Path, keyring: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("/dev/pts/none")  # as a simulated key leaves it that was killed
    with feeding(config_file, "--key", f"entropykey:{link}", "--keyring", str(keyring)) as process:
        if not is_root():
            assert line_with(process, "refused") == REFUSED
            return
        for plugged_in in range(2):
            with on_a_pty(link):
                established = line_with(process, "entropykey")
                assert established == f"entropykey:serial={SERIAL}: session established{CREDIT}"
                if not plugged_in:
                    assert "0 bits credited" in line_with(process, "seeded with")
            lost = line_with(process, "lost")
            assert re.fullmatch(f"entropykey:{link} was lost while being .*; waiting for a key", lost)
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate()
        assert process.returncode == 0
        assert "was lost" not in rest, "it was said once"
    found = status.read(tmp_path / "run")
    assert found is not None
    (key,) = found.keys
    assert (key.serial, key.simulated, key.state) == (SERIAL, True, "absent")
    assert found.kernel.seeds >= 1
    assert found.kernel.seeded_bits == 0


def test_while_it_is_fed_status_says_simulated_and_what_the_key_says(
    config_file: Path, keyring: Path, tmp_path: Path
) -> None:
    if not is_root():  # what an ordinary user is told is told above
        assert virtrng("--config-file", str(config_file), "feed").returncode == ExitCode.FAILED
        return
    link = tmp_path / "link"
    arguments = ("--key", f"entropykey:{link}", "--keyring", str(keyring))
    with on_a_pty(link), feeding(config_file, *arguments) as process:
        line_with(process, "seeded with")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        command = ("--config-file", str(config_file), "-c", "test:///default", "status")
        (key,) = json.loads(virtrng(*command, "--json").stdout)["feeder"]["status"]["keys"]
        lines = virtrng(*command).stdout.decode().splitlines()
    assert (key["simulated"], key["verdict"]) == (True, "no failure")
    assert key["telemetry"]["raw_left_shannons_per_byte"] == 2.95
    shown = next(line for line in lines if line.startswith("key "))
    assert f"entropykey:serial={SERIAL} (simulated by virtrng): ok when the feeder ended" in shown
    assert "it says of itself: no failure, " in lines[lines.index(shown) + 2]


def test_a_kind_that_does_not_exist_is_told_and_not_waited_for(config_file: Path) -> None:
    done = virtrng("--config-file", str(config_file), "feed", "--key", "nonesuch:/dev/ttyACM0")
    assert done.returncode == NoSuchKind.exit_code == 2
    assert done.stderr.decode().splitlines() == [
        "virtrng: no kind of keys is called 'nonesuch'",
        "  there are: entropykey",
    ]


# --- capture


def capture(tmp_path: Path, key: str) -> list[str | Path]:
    into = tmp_path / "raw"
    return ["keys", "capture", key, "--bytes", "5000", "--output", into, "--keyring", tmp_path / "keyring"]


def test_captured_over_a_pty(command: Command, keyring: Path, tmp_path: Path) -> None:
    with on_a_pty(tmp_path / "link") as served:
        ran = command(*capture(tmp_path, f"entropykey:{tmp_path}/link"))
    assert (ran.code, ran.err) == (0, "")
    assert f"entropykey:serial={SERIAL} (simulated by virtrng)" in ran.lines[0]
    assert (tmp_path / "raw").read_bytes() in served.encrypted


def test_captured_over_a_socket(command: Command, keyring: Path, tmp_path: Path) -> None:
    ended = threading.Event()
    captured: list[bytes] = []

    def serve() -> None:
        with to_the_client_of(listener, tmp_path / "socket") as served:
            ended.wait()
            captured.append(served.encrypted)

    with listening(tmp_path / "socket") as listener:
        server = threading.Thread(target=serve)
        server.start()
        ran = command(*capture(tmp_path, f"entropykey:{tmp_path}/socket"))
        ended.set()
        server.join()
    assert (ran.code, ran.err) == (0, "")
    assert "simulated" not in ran.lines[0]
    assert (tmp_path / "raw").read_bytes() in captured[0]


@pytest.mark.parametrize(
    ("key", "code", "sentence"),
    [
        ("nonesuch:/dev/null", 2, "no kind of keys is called 'nonesuch'"),
        ("entropykey:/dev/null", 4, "no key at /dev/null: it is neither a tty nor a socket"),
        ("entropykey:/nonexistent/key", 4, "no key at /nonexistent/key: nothing is there"),
        ("entropykey:./nonexistent", 4, "no key at nonexistent: nothing is there"),
        ("entropykey:/", 4, "no key at /: it is neither a tty nor a socket"),
    ],
)
def test_captured_from_nothing(command: Command, key: str, code: int, sentence: str, tmp_path: Path) -> None:
    ran = command(*capture(tmp_path, key))
    assert (ran.code, ran.out) == (code, b"")
    assert ran.err.splitlines()[0] == f"virtrng: {sentence}"
    if code == NoKeyAt.exit_code:
        assert ran.err.splitlines()[1] == f"  {NoKeyAt.hint}"
    assert [*tmp_path.iterdir()] == []
