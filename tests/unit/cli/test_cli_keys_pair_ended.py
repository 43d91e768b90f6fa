# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng keys pair` at a terminal, and ended by a signal at every stage."""

import errno
import getpass
import io
import os
import signal
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cli.bus import CARD, Bus, nothing_happened
from tests.unit.cli.conftest import Command
from virtrng import cli
from virtrng.keys.entropykey.keyring import long_term_keys
from virtrng.sim.entropykey import SERIAL

# --- ended by a signal


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("verb", [b"\x03", b"M"])
def test_ended_before_the_key_is_asked(
    bus: Bus, pair: Command, keyring: Path, number: signal.Signals, verb: bytes
) -> None:
    bus.before_write = lambda data: signal.raise_signal(number) if data[:1] == verb else None
    before = signal.getsignal(number)
    ran = pair()
    assert (ran.code, ran.out, ran.err) == (130, b"", "")
    assert nothing_happened(bus, keyring)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ended_once_the_key_was_asked_it_is_stored_first(
    bus: Bus, pair: Command, keyring: Path, number: signal.Signals
) -> None:
    bus.before_write = lambda data: signal.raise_signal(number) if data[:1] == b"L" else None
    ran = pair()
    assert ran.code == 130
    assert long_term_keys(keyring) == {SERIAL: bus.remembered[0]}
    assert ran.lines[0].startswith("paired ")
    assert bus.open == 0
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_under_nohup_the_end_of_the_terminal_ends_nothing(bus: Bus, pair: Command) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        bus.before_write = lambda _: signal.raise_signal(signal.SIGHUP)
        assert pair().code == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# --- at a terminal


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> list[str | type[BaseException]]:
    """What is typed at each prompt, which this takes the place of; stdin is a terminal."""
    answers: list[str | type[BaseException]] = []

    def prompt(text: str) -> str:
        assert text == f"master key, from the card of the Entropy Key {SERIAL} (not shown): "
        answer = answers.pop(0)
        if isinstance(answer, str):
            return answer
        raise answer

    monkeypatch.setattr(getpass, "getpass", prompt)
    monkeypatch.setattr(io, "TextIOWrapper", Terminal)
    return answers


def test_a_prompt_may_be_answered_three_times(
    bus: Bus, pair: Command, keyring: Path, typed: list[str | type[BaseException]]
) -> None:
    typed[:] = ["short", "", CARD.decode()]
    ran = pair()
    assert ran.code == 0
    assert [line for line in ran.err.splitlines() if "virtrng" in line] == [
        "virtrng: the prompt: the master key is not 44 characters long but 5",
        "virtrng: the prompt: the master key is not 44 characters long but 0",
    ]
    typed[:] = [EOFError, "x", "y", "too late"]
    keyring.unlink()
    assert pair().code == 1
    assert typed == ["too late"]


def test_a_prompt_that_is_interrupted(
    bus: Bus, pair: Command, keyring: Path, typed: list[str | type[BaseException]]
) -> None:
    typed[:] = [KeyboardInterrupt]
    ran = pair()
    assert (ran.code, ran.out) == (130, b"")
    assert nothing_happened(bus, keyring)


def at_a_terminal(bus: Bus, keyring: Path, act: Callable[[int, int], object]) -> tuple[int, bytes]:
    """Pair in a child that has a terminal; once it prompts do `act` with our end of that and its pid."""
    pid, master = os.forkpty()
    if pid == 0:
        try:
            with open(0) as sys.stdin, open(1, "w") as sys.stdout, open(2, "w") as sys.stderr:
                code = int(cli.main(["keys", "pair", "--keyring", str(keyring)]))
                echo = bool(termios.tcgetattr(0)[3] & termios.ECHO)
                os.write(1, f"open: {bus.open}, echo: {echo}\n".encode())
                os._exit(code)
        finally:
            os._exit(99)
    said = b""
    try:
        while b"(not shown): " not in said:
            said += os.read(master, 4096)
        act(master, pid)
        while chunk := _read(master):
            said += chunk
    finally:
        os.close(master)
        _, ended = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(ended), said


def _read(master: int) -> bytes:
    try:
        return os.read(master, 4096)
    except OSError as error:
        if error.errno == errno.EIO:  # how a terminal whose other end was closed says so
            return b""
        raise


def test_what_is_typed_is_not_shown(bus: Bus, keyring: Path) -> None:
    code, said = at_a_terminal(bus, keyring, lambda master, _: os.write(master, CARD))
    assert code == 0
    assert b"AAECAwQF" not in said
    assert b"paired entropykey" in said
    assert [*long_term_keys(keyring)] == [SERIAL]


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_a_terminal_is_left_as_it_was(bus: Bus, keyring: Path, how: str) -> None:
    def end(master: int, pid: int) -> None:
        if how == "Ctrl-C":
            os.write(master, b"\x03")
        else:
            os.kill(pid, signal.SIGTERM)

    code, said = at_a_terminal(bus, keyring, end)
    assert code == 130
    assert b"open: 0, echo: True" in said, "the key was given back, and the echo"
    assert nothing_happened(bus, keyring)
