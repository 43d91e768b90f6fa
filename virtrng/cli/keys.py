# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng keys`: which keys are plugged in, and what stands in the way of each; a module a verb."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from virtrng.cli import holders, keys_import, keys_pair, keys_read, output
from virtrng.cli import keys_options as options
from virtrng.errors import (
    BadKeyring,
    ExitCode,
    FileFailed,
    KeyDenied,
    KeyInUse,
    NoKey,
    NoLongTermKey,
    VirtrngError,
)
from virtrng.feeder import source
from virtrng.keys import KEYS, find
from virtrng.keys.entropykey.keyring import long_term_keys
from virtrng.transport import scan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the verbs."""
    parser.add_argument("--supported", action="store_true", help="list the products that virtrng knows")
    options.add_json(parser)
    options.add_keyring(parser)
    parser.set_defaults(verb=_list, json=False, keyring=source.DEFAULT_KEYRING)
    verbs = parser.add_subparsers(metavar="VERB", parser_class=argparse.ArgumentParser)
    keys_pair.add_verb(verbs)
    keys_import.add_verb(verbs)
    keys_read.add_verbs(verbs)


def run(arguments: argparse.Namespace) -> int:
    """List, or do what the verb says."""
    return int(arguments.verb(arguments))


@dataclass(frozen=True, slots=True)
class _Seen:
    """One key that is plugged in: whether it is paired, who uses it, and what stands in its way."""

    key: find.Found
    paired: bool | None
    holder: str | None
    state: str
    message: str
    remedy: str


def _list(arguments: argparse.Namespace) -> int:
    if arguments.supported:
        return _supported(arguments)
    keyring: Path = arguments.keyring
    known = _known(keyring)
    keys = [_seen(key, keyring, known) for key in find.among(scan.usb_devices())]
    if arguments.json:
        output.document({"keys": [_document(seen) for seen in keys]})
    elif keys:
        _print(keys, keyring)
    if not keys:
        raise NoKey
    return ExitCode.DONE


def _known(keyring: Path) -> frozenset[str] | VirtrngError:
    """Return the serials that have a long-term key, or why that is not known."""
    try:
        return frozenset(long_term_keys(keyring))
    except (BadKeyring, FileFailed) as trouble:
        return trouble


def _seen(key: find.Found, keyring: Path, known: frozenset[str] | VirtrngError) -> _Seen:
    used_by = _holder(key.device)
    holder = holders.recognised(used_by) if used_by else None
    paired = key.device.serial in known if isinstance(known, frozenset) else None
    if holder and holder.feeds:
        state, message, remedy = "feeding", f"{key.name} feeds the pool", "'virtrng status' tells more"
    elif trouble := _trouble(key, keyring, known, holder):
        state, message, remedy = trouble.code, str(trouble), trouble.remedy
    else:
        state, message = "ready", f"{key.name} is paired, and nobody uses it"
        remedy = f"'systemctl start {holders.SERVICE}' feeds the pool from it"
    return _Seen(key, paired, holder.name if holder else None, state, message, remedy)


def _trouble(
    key: find.Found, keyring: Path, known: frozenset[str] | VirtrngError, holder: holders.Holder | None
) -> VirtrngError | None:
    """Return what opening the key would meet, as far as that can be seen from outside."""
    node, serial = key.device.node, key.device.serial
    if holder:
        return KeyInUse(key.name, holder.name, holder.way_out)
    if os.path.exists(node) and not os.access(node, os.R_OK | os.W_OK):
        return KeyDenied(key.name, node)
    if not isinstance(known, frozenset):
        return known
    return None if serial in known else NoLongTermKey(serial, str(keyring))


def _holder(device: scan.UsbDevice) -> str | None:
    nodes = (device.node, *scan.serial_ports(device))
    return next((user for node in nodes if (user := scan.holder(node))), None)


def _sees_holders() -> bool:
    """Whether we see who has a file open: only root is shown what other users' processes have."""
    return os.geteuid() == 0


def _document(seen: _Seen) -> dict[str, object]:
    device = seen.key.device
    return {
        "kind": seen.key.kind.name,
        "serial": device.serial,
        "product": device.product,
        "manufacturer": device.manufacturer,
        "simulated": device.simulated,
        "node": device.node,
        "paired": seen.paired,
        "holder": seen.holder,
        "state": seen.state,
        "message": seen.message,
        "remedy": seen.remedy,
    }


def _print(keys: list[_Seen], keyring: Path) -> None:
    nobody = "nobody" if _sees_holders() else "unknown: no permission"
    unknown = "unknown: bad keyring" if os.access(keyring, os.R_OK) else "unknown: no permission"
    rows = [
        (
            seen.key.name,
            f"{seen.key.device.manufacturer} {seen.key.device.product}".strip(),
            seen.key.device.node,
            {True: "yes", False: "no", None: unknown}[seen.paired],
            seen.holder or nobody,
        )
        for seen in keys
    ]
    output.table(("KEY", "PRODUCT", "NODE", "PAIRED", "IN USE BY"), rows)
    for seen in keys:
        output.line()
        output.line(seen.message)
        output.line(f"  {seen.remedy}")


def _supported(arguments: argparse.Namespace) -> int:
    rows = [
        (kind.name, kind.title, f"{usb.vendor_id:04x}:{usb.product_id:04x}")
        for kind in KEYS
        for usb in kind.usb
    ]
    if arguments.json:
        output.document(
            {"supported": [dict(zip(("kind", "title", "usb_id"), row, strict=True)) for row in rows]}
        )
    else:
        output.table(("KIND", "PRODUCT", "USB ID"), rows)
    return ExitCode.DONE
