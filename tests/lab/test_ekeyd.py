# SPDX-License-Identifier: LGPL-2.1-or-later
"""Is the simulated key, on a pseudo-terminal, an Entropy Key to those who know one: ekeyd and ekey-setkey?"""

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.ekeyd import PATIENCE_S, Ekeyd, SimulatedKey, setkey, simulated_key
from tests.lab.host import wait_for
from tests.scale import scaled
from virtrng.keys.entropykey import keyring
from virtrng.sim.entropykey import derived, seeded_noise

SEED = "judged by ekeyd"
# A session takes 1.6 s.
RATE = ("--rate", "80000", "--seed", SEED)
FRAME_BYTES = 32
SESSION_BYTES = 4096 * FRAME_BYTES
ANOTHER_MASTER_KEY = base64.b64encode(bytes(32)).decode()


@pytest.fixture(scope="module", autouse=True)
def within_the_lab(lab: None) -> None:
    """Let the lab look, at its end, for what these tests left."""


@pytest.fixture
def key(tmp_path: Path) -> Iterator[SimulatedKey]:
    with simulated_key(tmp_path, *RATE) as key:
        yield key


def plaintext(frames: int) -> Iterator[bytes]:
    """Yield what the key encrypts, from its first frame on."""
    noise = seeded_noise(derived(SEED, "noise"))
    return (noise(FRAME_BYTES) for _ in range(frames))


def paired(key: SimulatedKey, directory: Path) -> Path:
    file = directory / "keyring"
    done = setkey(key.link, file, key.master_key)
    assert done.returncode == 0, done.stderr
    return file


def test_pairing_gives_both_the_same_long_term_key(key: SimulatedKey, tmp_path: Path) -> None:
    before = key.long_term_key_file.read_text()
    lines = paired(key, tmp_path).read_text().splitlines(keepends=True)
    after = key.long_term_key_file.read_text()
    assert [line for line in lines if not line.startswith("#")] == [after]
    assert after != before
    assert keyring.long_term_key(tmp_path / "keyring", key.serial)


def test_a_wrong_master_key_is_refused_and_changes_nothing(key: SimulatedKey, tmp_path: Path) -> None:
    before = key.long_term_key_file.read_text()
    done = setkey(key.link, tmp_path / "keyring", ANOTHER_MASTER_KEY)
    assert done.returncode == 2
    assert "Provided master key does not match the device's." in done.stdout + done.stderr
    assert key.serial not in (tmp_path / "keyring").read_text()
    assert key.long_term_key_file.read_text() == before


def test_what_ekeyd_writes_is_what_the_key_encrypted_over_its_sessions(
    key: SimulatedKey, tmp_path: Path
) -> None:
    with Ekeyd(tmp_path, key.link, paired(key, tmp_path)) as ekeyd:
        ekeyd.wait_for_output(FRAME_BYTES)
        sessions = scaled(3)
        resets = ekeyd.statistics()["ConnectionResets"]  # one for each frame that was there before it
        ekeyd.wait_for_output(sessions * SESSION_BYTES + FRAME_BYTES)
        assert ekeyd.status() == "Running OK"
        counted = ekeyd.statistics()
        written = ekeyd.end()
    assert int(counted["ConnectionRekeys"]) > sessions
    assert (counted["ConnectionResets"], counted["FramingErrors"]) == (resets, "0")
    assert (counted["KeyTemperatureK"], counted["KeyShortBadness"]) == ("314.3", "efm_ok")
    assert len(written) > sessions * SESSION_BYTES
    assert written == b"".join(plaintext(len(written) // FRAME_BYTES))


def test_a_key_that_is_unplugged_has_vanished_and_another_may_come(tmp_path: Path) -> None:
    with simulated_key(tmp_path, *RATE) as key:
        file = paired(key, tmp_path)
        with Ekeyd(tmp_path, key.link, file) as ekeyd:
            ekeyd.wait_for_output(FRAME_BYTES)
            key.unplug()
            wait_for(lambda: "Vanished" in ekeyd.status(), "ekeyd to notice", timeout_s=PATIENCE_S)
            had = ekeyd.output.stat().st_size
            # It remembers its pairing: the file that keeps it is there.
            with simulated_key(tmp_path, *RATE):
                ekeyd.ask(f'RemoveEntropyKey("{key.link}")')
                ekeyd.ask(f'AddEntropyKey("{key.link}")')
                ekeyd.wait_for_output(had + FRAME_BYTES)
                ekeyd.end()


def test_under_faults_ekeyd_writes_only_what_was_encrypted(tmp_path: Path) -> None:
    # No wrong MAC: on a busy machine it then takes the long-term key for wrong, and rests for 50 blocks. No
    # duplicates either: it would write them twice.
    faults = [word for name in ("drop", "truncate", "noise") for word in ("--fault", f"{name}@0.5%")]
    with simulated_key(tmp_path, *RATE) as key:
        file = paired(key, tmp_path)
    with simulated_key(tmp_path, *RATE, *faults) as key, Ekeyd(tmp_path, key.link, file) as ekeyd:
        ekeyd.wait_for_output(scaled(3000) * FRAME_BYTES)
        assert int(ekeyd.statistics()["FramingErrors"]) >= 3
        written = ekeyd.end()
    encrypted = plaintext(scaled(100_000))
    pieces = [written[at : at + FRAME_BYTES] for at in range(0, len(written), FRAME_BYTES)]
    assert all(piece in encrypted for piece in pieces), "each once, and in order"
