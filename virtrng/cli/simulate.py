# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng simulate`: a key made of software, for whoever has none, or writes a driver for one."""

import argparse
import base64
import binascii
import os
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from virtrng.cli import output
from virtrng.errors import BadMasterKey, ExitCode, FileFailed, NoLongTermKey
from virtrng.keys.entropykey import keyring, pairing
from virtrng.keys.entropykey.session import SERIAL_BYTES, urandom
from virtrng.sim import faults, pty, usbip
from virtrng.sim.entropykey import RATE_BYTES_PER_S, SERIAL, derived, master_key_card, seeded_noise
from virtrng.sim.faults import Fault, FaultyEntropyKey
from virtrng.sim.firmware import Firmware

# That of the vectors in docs/protocol/entropy-key.md.
MASTER_KEY = bytes(range(32))
RATE_MAX_BYTES_PER_S = 10_000_000.0
PORT_MAX = 65_535
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("kind", metavar="KIND", choices=("entropykey",), help="entropykey")
    _add_places(parser.add_mutually_exclusive_group(required=True))
    parser.add_argument(
        "--serial", metavar="SERIAL", type=_serial, default=SERIAL, help=f"16 characters; default: {SERIAL}"
    )
    parser.add_argument(
        "--master-key-file",
        metavar="FILE",
        type=Path,
        help=f"holds what is on the card; default: {master_key_card(MASTER_KEY)}",
    )
    parser.add_argument(
        "--long-term-key-file",
        metavar="FILE",
        type=Path,
        help="where the key remembers its pairing, as a line of a keyring; made if it is not there "
        "(default: a key that forgets)",
    )
    parser.add_argument(
        "--rate",
        metavar="BYTES_PER_S",
        type=_rate,
        default=RATE_BYTES_PER_S,
        help=f"default: {RATE_BYTES_PER_S:.0f}, a real key's pace",
    )
    parser.add_argument(
        "--fault", metavar="NAME[@WHEN]", type=_fault, action="append", default=[], help="may be repeated"
    )
    parser.add_argument("--seed", metavar="TEXT", help="what it sends, and chance, repeat with the same seed")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.epilog = _fault_table()


def _add_places(where: argparse._MutuallyExclusiveGroup) -> None:
    where.add_argument("--pty", metavar="LINK", type=Path, help="on a pseudo-terminal, which LINK leads to")
    where.add_argument(
        "--usbip",
        metavar="PORT",
        type=_port,
        help=f"on USB, for 'usbip attach': a server on {usbip.HOST}, on any free port if that is 0",
    )


def run(arguments: argparse.Namespace) -> int:
    """Be a key until told to stop, or unplugged by a fault."""
    if arguments.seed is None:
        arguments.seed = urandom(8).hex()
    master_key = _master_key(arguments.master_key_file)
    long_term_key = _long_term_key(arguments)
    with _stop() as stop, _place(arguments) as place:
        firmware = FaultyEntropyKey(
            arguments.fault,
            seed=arguments.seed,
            serial=arguments.serial,
            long_term_key=long_term_key,
            master_key=master_key,
            now_s=time.monotonic(),
            rate_bytes_per_s=arguments.rate,
            noise=seeded_noise(derived(arguments.seed, "noise")),
            device_entropy=seeded_noise(derived(arguments.seed, "device entropy")),
            remember=partial(_remember, arguments),
        )
        _introduce(arguments, place, master_key, long_term_key)
        place.serve(firmware, stop)
    return ExitCode.DONE


# --- where it is


@dataclass(frozen=True, slots=True)
class _Place:
    """What is told of the place, how other commands name the key there, how it is served."""

    told: dict[str, str | int]
    key: str
    first: str  # what its user does before all else
    serve: Callable[[Firmware, int], None]


@contextmanager
def _place(arguments: argparse.Namespace) -> Iterator[_Place]:
    """Give the place that is asked for, until the block ends."""
    if arguments.usbip is not None:
        with usbip.listening(arguments.usbip) as listener:
            port = listener.getsockname()[1]
            told: dict[str, str | int] = {"host": usbip.HOST, "port": port, "busid": usbip.BUSID}
            attach = f"usbip --tcp-port {port} attach --remote {usbip.HOST} --busid {usbip.BUSID}"
            first = f"plug it in: {attach}   (after modprobe vhci-hcd, as root)"
            yield _Place(
                told, arguments.serial, first, lambda key, stop: usbip.Server(key).serve(listener, stop)
            )
        return
    with pty.terminal(arguments.pty) as at:
        link = str(at.link.absolute())
        yield _Place(
            {"link": link, "terminal": at.name},
            f"{arguments.kind}:{link}",
            "",
            lambda key, stop: pty.serve(key, at, stop),
        )


# --- what is asked for


def _serial(text: str) -> str:
    try:
        if len(base64.b64decode(text, validate=True)) == SERIAL_BYTES:
            return text
    except (ValueError, binascii.Error):
        pass
    raise argparse.ArgumentTypeError(f"'{text}' is not a serial: it must be 16 base64 characters")


def _port(text: str) -> int:
    if re.fullmatch(r"\d{1,5}", text, re.ASCII) and int(text) <= PORT_MAX:
        return int(text)
    raise argparse.ArgumentTypeError(f"'{text}' is not a port: it must be a number from 0 to {PORT_MAX}")


def _rate(text: str) -> float:
    if _NUMBER.fullmatch(text) and 0 < float(text) <= RATE_MAX_BYTES_PER_S:
        return float(text)
    what = f"a number of bytes a second, more than 0 and at most {RATE_MAX_BYTES_PER_S:,.0f}"
    raise argparse.ArgumentTypeError(f"'{text}' is not {what}")


def _fault(text: str) -> Fault:
    try:
        return faults.fault(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _fault_table() -> str:
    rows = (f"  {name:<20}{help_}" for name, help_ in faults.FAULTS.items())
    return "\n".join(["faults, with --fault:", *rows, "", faults.SYNTAX])


def _master_key(file: Path | None) -> bytes:
    if file is None:
        return MASTER_KEY
    try:
        return pairing.master_key(file.read_text("utf-8", "replace"))
    except ValueError as error:
        raise BadMasterKey(str(file), str(error)) from None
    except OSError as error:
        raise FileFailed(str(file), "read", error.strerror or str(error)) from error


def _long_term_key(arguments: argparse.Namespace) -> bytes:
    """Return the key that the file has, or a new one, which it then has."""
    new = derived(arguments.seed, "long-term key")
    file = arguments.long_term_key_file
    if file is None:
        return new
    try:
        return keyring.long_term_key(file, arguments.serial)
    except NoLongTermKey:
        keyring.store(file, arguments.serial, new)
        return new


def _remember(arguments: argparse.Namespace, long_term_key: bytes) -> None:
    if arguments.long_term_key_file is not None:
        keyring.store(arguments.long_term_key_file, arguments.serial, long_term_key)


def _keyring_line(serial: str, long_term_key: bytes) -> str:
    return f"{serial} {base64.b64encode(long_term_key).decode('ascii')}"


# --- what is told


def _introduce(arguments: argparse.Namespace, place: _Place, master_key: bytes, long_term_key: bytes) -> None:
    told = {
        "kind": arguments.kind,
        "serial": arguments.serial,
        **place.told,
        "master_key": master_key_card(master_key),
        "keyring_line": _keyring_line(arguments.serial, long_term_key),
        "rate_bytes_per_s": arguments.rate,
        "seed": arguments.seed,
    }
    if arguments.json:
        output.document({**told, "simulated": True, "faults": [one.name for one in arguments.fault]})
        return
    output.line("a simulated Entropy Key: what it sends is not random, and nothing here is secret")
    for name in ("serial", *place.told, "master_key", "keyring_line", "seed"):
        output.line(f"  {name.replace('_', ' '):<14}{told[name]}")
    if place.first:
        output.line(place.first)
    key = shlex.quote(place.key)
    output.line(f"pair it: virtrng keys pair {key}   (with the master key above)")
    output.line(f"read it: virtrng feed --key {key}   (paired, or with the line above in its keyring)")
    output.line("Ctrl-C unplugs it")


@contextmanager
def _stop() -> Iterator[int]:
    """Give a descriptor that is readable once SIGTERM, Ctrl-C or the end of the terminal asks us to end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    wakeup_before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    # What whoever started it has it ignore, as nohup does, is ignored.
    ending = [number for number in _ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda *_: None) for number in ending}
    try:
        yield reading
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup_before)
        os.close(reading)
        os.close(writing)
