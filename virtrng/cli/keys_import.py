# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng keys import-ekeyd`: ekeyd's keyring taken over into ours."""

import argparse
import hmac
from pathlib import Path
from typing import Any

from virtrng.cli import keys_options as options
from virtrng.cli import output
from virtrng.errors import ExitCode
from virtrng.keys.entropykey import keyring as keyrings

EKEYD_KEYRING = Path("/etc/entropykey/keyring")

_WORDS = {
    "new": "new",
    "replaced": "replaced: there was another long-term key for it",
    "unchanged": "already there",
}


def add_verb(verbs: Any) -> None:
    """Declare the verb."""
    parser = verbs.add_parser(
        "import-ekeyd",
        help="take over the long-term keys that ekeyd has",
        description="Add what is in ekeyd's keyring to ours, or replace what ours has for the same keys. "
        "ekeyd's own stays as it is.",
    )
    parser.add_argument("file", metavar="FILE", nargs="?", type=Path, default=EKEYD_KEYRING,
                        help=f"ekeyd's keyring (default: {EKEYD_KEYRING})")  # fmt: skip
    options.add_keyring(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what it would do, and change nothing")
    options.add_json(parser)
    parser.set_defaults(verb=_import)


def _import(arguments: argparse.Namespace) -> int:
    theirs, open_to_others = keyrings.foreign_long_term_keys(arguments.file)
    ours = keyrings.long_term_keys(arguments.keyring)
    became = {serial: _became(ours.get(serial), secret) for serial, secret in theirs.items()}
    to_store = {serial: theirs[serial] for serial, what in became.items() if what != "unchanged"}
    if to_store and not arguments.dry_run:
        with keyrings.storing(arguments.keyring) as put:
            put(to_store)
    if open_to_others and theirs:
        output.note(f"virtrng: others than its owner can read {arguments.file}")
        output.note("  where nobody else may know its long-term keys: 'virtrng keys pair --force SERIAL'")
    if arguments.json:
        output.document(
            {
                "file": str(arguments.file),
                "keyring": str(arguments.keyring),
                "changed": bool(to_store) and not arguments.dry_run,
                "keys": [{"serial": serial, "became": what} for serial, what in became.items()],
            }
        )
    else:
        _print(arguments, became, len(to_store))
    return ExitCode.DONE


def _became(old: bytes | None, new: bytes) -> str:
    if old is None:
        return "new"
    return "unchanged" if hmac.compare_digest(old, new) else "replaced"


def _print(arguments: argparse.Namespace, became: dict[str, str], changed: int) -> None:
    if not became:
        output.line(f"{arguments.file} has no long-term key; nothing was changed")
        return
    for serial, what in became.items():
        output.line(f"{serial}  {_WORDS[what]}")
    if arguments.dry_run:
        output.line(f"it would write {changed} of {len(became)} to {arguments.keyring}; nothing was changed")
    elif changed:
        output.line(f"wrote {changed} of {len(became)} to {arguments.keyring}")
        output.line("next: 'systemctl disable --now ekeyd', then 'systemctl start virtrng-feeder'")
    else:
        output.line(f"{arguments.keyring} has them all; nothing was changed")
