# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng keys`: which keys are plugged in, and raw samples of one."""

import argparse
from pathlib import Path

from virtrng import config
from virtrng.cli import output
from virtrng.errors import ExitCode, KeySilent, NoKey
from virtrng.feeder import source
from virtrng.files import replacing
from virtrng.keys import KEYS, find
from virtrng.keys.base import Key
from virtrng.transport import scan

# A key that gives nothing for so long is not going to.
SILENCE_MS = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options and the one verb."""
    parser.add_argument("--supported", action="store_true", help="list the products that virtrng knows")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(verb=_list)
    verbs = parser.add_subparsers(metavar="VERB", parser_class=argparse.ArgumentParser)
    capture = verbs.add_parser(
        "capture",
        help="raw samples of a key to a file, for NIST's EntropyAssessment",
        description="Write bytes as the key delivers them, before any conditioning, to a file (mode 0600). "
        "They must not be used as keys: they are for measuring the key.",
    )
    which = capture.add_mutually_exclusive_group(required=True)
    which.add_argument("key", metavar="KEY", nargs="?", help="SERIAL or KIND:serial=SERIAL")
    which.add_argument("--simulate", metavar="KIND", choices=sorted(source.SIMULATED), help="a simulated key")
    capture.add_argument("--bytes", metavar="N", type=_count, required=True, help="how many")
    capture.add_argument("--output", metavar="FILE", type=Path, required=True, help="where to")
    capture.add_argument("--keyring", metavar="FILE", type=Path, default=source.DEFAULT_KEYRING)
    capture.set_defaults(verb=_capture)


def run(arguments: argparse.Namespace) -> int:
    """List, or do what the verb says."""
    return int(arguments.verb(arguments))


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number of bytes, 1 or more")
    return count


def _list(arguments: argparse.Namespace) -> int:
    if arguments.supported:
        return _supported(arguments)
    found = find.among(scan.usb_devices())
    keys = [
        {
            "kind": key.kind.name,
            "serial": key.device.serial,
            "product": key.device.product,
            "manufacturer": key.device.manufacturer,
            "simulated": key.device.simulated,
            "node": key.device.node,
            "holder": scan.holder(key.device.node),
        }
        for key in found
    ]
    if arguments.json:
        output.document({"keys": keys})
    elif keys:
        rows = [
            (f"{key['kind']}:serial={key['serial']}", f"{key['manufacturer']} {key['product']}".strip(),
             str(key["node"]), str(key["holder"] or "nobody"))
            for key in keys
        ]  # fmt: skip
        output.table(("KEY", "PRODUCT", "NODE", "IN USE BY"), rows)
    if not keys:
        raise NoKey
    return ExitCode.DONE


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


def _capture(arguments: argparse.Namespace) -> int:
    settings = config.load(arguments.config_file)
    if arguments.simulate:
        chosen = source.simulated(arguments.simulate)
    else:
        (chosen,) = source.plugged_in(settings.keys, arguments.keyring, arguments.key)
    key = chosen.open()
    try:
        key.start()
        _copy(key, arguments.bytes, arguments.output)
    finally:
        key.close()
    note = " (simulated by virtrng)" if key.simulated else ""
    output.line(
        f"wrote {arguments.bytes} raw bytes of {chosen.kind}:serial={key.serial}{note} to {arguments.output}"
    )
    return ExitCode.DONE


def _copy(key: Key, wanted: int, path: Path) -> None:
    silent_ms, written = 0, 0
    with replacing(path, 0o600) as file:
        while written < wanted:
            noise = key.read(1000)
            silent_ms = 0 if noise else silent_ms + 1000
            if silent_ms >= SILENCE_MS:
                raise KeySilent(f"the key {key.serial}", silent_ms)
            if noise:
                written += file.write(noise.data[: wanted - written])
                output.progress(f"captured {written} of {wanted} bytes")
