# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng keys pair`: an Entropy Key's new long-term key, made with the master key on its card.

The master key comes from a prompt that shows nothing, or from stdin; never from
the command line, where every user of the machine could read it.
"""

import argparse
import getpass
import shlex
import sys
from collections.abc import Container, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from virtrng import config, files, status
from virtrng.cli import holders, output, signals
from virtrng.cli import keys_options as options
from virtrng.config import Config
from virtrng.errors import (
    BadMasterKey,
    ExitCode,
    FileFailed,
    KeySilent,
    PairingUnfinished,
    SeveralUnpaired,
    WrongLongTermKey,
)
from virtrng.feeder.source import DEFAULT_KEYRING
from virtrng.keys import find
from virtrng.keys.entropykey import ENTROPY_KEY, EntropyKey, pairing
from virtrng.keys.entropykey.exchange import Pairing
from virtrng.keys.entropykey.keyring import long_term_keys, storing
from virtrng.transport import path, scan
from virtrng.transport.base import Transport
from virtrng.transport.usb import UsbTransport

# A mistyped card is asked for again; what is piped in is not.
PROMPTS_MAX = 3
# A session's first noise comes within a second.
SESSION_MS = 10_000
_STDIN_MAX_BYTES = 4096


def add_verb(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "pair",
        help="give an Entropy Key a new long-term key, and store it",
        description="Pair an Entropy Key with this host. The master key, on the card that came with the "
        "key, is asked for at a prompt, or read from stdin where that is no terminal. A key whose "
        "long-term key is known and works is left as it is.",
    )
    parser.add_argument(
        "key",
        metavar="SERIAL",
        nargs="?",
        help=f"may be left out when one key is not paired yet; or, as elsewhere, {find.KEY_HELP}",
    )
    options.add_keyring(parser)
    parser.add_argument("--force", action="store_true", help="also where the long-term key works")
    parser.add_argument("--dry-run", action="store_true", help="say what it would do, and change nothing")
    options.add_json(parser)
    parser.set_defaults(verb=_pair)


def _pair(arguments: argparse.Namespace) -> int:
    settings = config.load(arguments.config_file)
    known = long_term_keys(arguments.keyring)
    chosen = _chosen(arguments.key, known)
    if chosen is None:
        _tell_nothing_to_do(arguments)
        return ExitCode.DONE
    with signals.ending_cleanly():
        with holders.told():
            transport = _opened(chosen)
        with closing(transport):
            _pair_it(_Job(transport, chosen, arguments.keyring, settings, arguments), known)
    return ExitCode.DONE


def _chosen(wanted: str | None, known: Container[str]) -> find.Found | find.At | None:
    """Return the key that is meant; None if none was named, and none of several lacks a long-term key."""
    if wanted:
        meant = find.meant_by(wanted)
        if isinstance(meant, find.At):
            return meant
    plugged_in = [key for key in find.among(scan.usb_devices()) if key.kind.name == ENTROPY_KEY.name]
    if wanted:
        return find.named(plugged_in, wanted)
    some = find.some(plugged_in)
    unpaired = [key for key in some if key.device.serial not in known]
    if len(unpaired) > 1:
        raise SeveralUnpaired(", ".join(key.device.serial for key in unpaired))
    if not unpaired and len(some) > 1:
        return None
    return unpaired[0] if unpaired else some[0]


def _opened(chosen: find.Found | find.At) -> Transport:
    if isinstance(chosen, find.At):
        return path.at(chosen.name, chosen.path)
    return UsbTransport(chosen.name, chosen.device)


@dataclass(frozen=True, slots=True)
class _Job:
    """One key to pair, open."""

    transport: Transport
    chosen: find.Found | find.At
    keyring: Path
    settings: Config
    arguments: argparse.Namespace


def _pair_it(job: _Job, known: Mapping[str, bytes]) -> None:
    expected = "" if isinstance(job.chosen, find.At) else job.chosen.device.serial
    exchange = Pairing(job.transport, serial=expected)
    serial = exchange.identify()
    name = f"{ENTROPY_KEY.name}:serial={serial}{' (simulated by virtrng)' if job.transport.simulated else ''}"
    if serial in known and not job.arguments.force:
        if _works(job, serial, known[serial]):
            text = f"{name} is paired already, and its long-term key in {job.keyring} works"
            _tell(job, serial, [f"{text}; nothing was changed"], paired=True)
            return
        output.note(f"the long-term key in {job.keyring} is not that of {name}: it needs a new one")
    if job.arguments.dry_run:
        text = f"{name} would get a new long-term key, in {job.keyring}; nothing was changed"
        _tell(job, serial, [text], paired=False)
        return
    master_key = _asked_for(serial)
    with ExitStack() as to_the_end:
        _exchange(exchange, master_key, job.keyring, to_the_end)
        text = f"paired {name}: its long-term key is in {job.keyring}"
        _tell(job, serial, [text, _next(job, serial)], paired=True, changed=True)


def _works(job: _Job, serial: str, long_term_key: bytes) -> bool:
    """Whether a session under this long-term key brings noise."""
    key = EntropyKey(
        job.transport,
        lambda _: long_term_key,
        min_entropy=ENTROPY_KEY.min_entropy,
        keyring=str(job.keyring),
        serial=serial,
    )
    try:
        key.start()
        if key.read(SESSION_MS) is None:
            raise KeySilent(job.transport.key, SESSION_MS)
    except WrongLongTermKey:
        return False
    return True


def _exchange(exchange: Pairing, master_key: bytes, keyring: Path, to_the_end: ExitStack) -> None:
    """Pair, and store what comes of it; once the key has been asked to change nothing interrupts that."""
    asked = False
    try:
        with storing(keyring) as put:
            exchange.identify()
            exchange.unlock(master_key)
            to_the_end.enter_context(signals.held())
            new = exchange.rekey()
            asked = True
            put({exchange.serial: new})
    except FileFailed as error:
        if asked:
            raise PairingUnfinished(exchange.serial, str(error)) from error
        raise


# --- the master key


def _asked_for(serial: str) -> bytes:
    if sys.stdin is None or not sys.stdin.isatty():
        typed = sys.stdin.buffer.read(_STDIN_MAX_BYTES) if sys.stdin else b""
        return _master_key("stdin", typed.decode("utf-8", "replace"))
    for _ in range(PROMPTS_MAX - 1):
        try:
            return _prompted_for(serial)
        except BadMasterKey as error:
            output.error(error)
    return _prompted_for(serial)


def _prompted_for(serial: str) -> bytes:
    try:
        typed = getpass.getpass(f"master key, from the card of the Entropy Key {serial} (not shown): ")
    except EOFError:
        typed = ""
    return _master_key("the prompt", typed)


def _master_key(where: str, typed: str) -> bytes:
    try:
        return pairing.master_key(typed)
    except ValueError as error:
        raise BadMasterKey(where, str(error)) from None


# --- what is told


def _next(job: _Job, serial: str) -> str:
    feeder = None
    with suppress(PermissionError):  # only root pairs into a keyring that a feeder of root's reads
        feeder = files.holder(job.settings.paths.run_dir / status.LOCK_NAME)
    if feeder:
        reads = "" if job.keyring == DEFAULT_KEYRING else ", where it reads this keyring"
        return f"next: nothing; {feeder} takes the key within seconds{reads}"
    named = serial if isinstance(job.chosen, find.Found) else job.chosen.name
    more = "" if job.keyring == DEFAULT_KEYRING else f" --keyring {shlex.quote(str(job.keyring))}"
    test = f"'virtrng keys test {shlex.quote(named)}{more}' tries it"
    if more or isinstance(job.chosen, find.At):
        return f"next: {test}; 'virtrng feed --key {shlex.quote(named)}{more}' feeds the pool from it"
    return f"next: {test}; 'systemctl start {holders.SERVICE}' feeds the pool from it"


def _tell(job: _Job, serial: str, lines: list[str], *, paired: bool, changed: bool = False) -> None:
    if job.arguments.json:
        output.document(
            {
                "kind": ENTROPY_KEY.name,
                "serial": serial,
                "simulated": job.transport.simulated,
                "keyring": str(job.keyring),
                "paired": paired,
                "changed": changed,
            }
        )
        return
    for line in lines:
        output.line(line)


def _tell_nothing_to_do(arguments: argparse.Namespace) -> None:
    if arguments.json:
        output.document({"keyring": str(arguments.keyring), "paired": True, "changed": False})
        return
    output.line(f"{arguments.keyring} has a long-term key for each key that is plugged in: nothing to do")
    output.line("  to have the one of a certain key tried, and renewed where it is wrong, name its SERIAL")
