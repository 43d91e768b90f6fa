# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a key can do to us, and pairing."""

from virtrng.errors.base import ExitCode, VirtrngError


class KeyTrouble(VirtrngError):
    """Anything that one key did; the daemon loop contains it to that key."""


class NoKey(KeyTrouble):
    code = "no-key"
    exit_code = ExitCode.NO_KEY
    sentence = "no supported key is plugged in"
    hint = (
        "'virtrng keys --supported' lists the products; 'virtrng feed --simulate entropykey' runs without one"
    )


class NoSuchKey(KeyTrouble):
    key: str
    present: str
    code = "no-such-key"
    exit_code = ExitCode.NO_KEY
    sentence = "no key matches '{0.key}'"
    hint = "present: {0.present}"


class NoKeyAt(KeyTrouble):
    path: str
    what: str
    code = "no-key-at-path"
    exit_code = ExitCode.NO_KEY
    sentence = "no key at {0.path}: {0.what}"
    hint = (
        "a path must lead to a tty or to a UNIX socket with a key behind it; a running feeder waits for that"
    )


class NoSuchKind(VirtrngError):
    kind: str
    known: str
    code = "no-such-kind"
    exit_code = ExitCode.USAGE
    sentence = "no kind of keys is called '{0.kind}'"
    hint = "there are: {0.known}"


class KeyInUse(KeyTrouble):
    key: str
    holder: str
    way_out: str = "stop that program first, or choose another key"
    code = "key-in-use"
    sentence = "{0.key} is in use by {0.holder}"
    hint = "{0.way_out}"


class KeyDenied(KeyTrouble):
    key: str
    node: str
    code = "key-denied"
    sentence = "no permission to open {0.key} at {0.node}"
    hint = "run as root"


class KeyLost(KeyTrouble):
    key: str
    doing: str
    code = "key-lost"
    sentence = "{0.key} was lost while {0.doing}"
    hint = "plug it in again; a running feeder finds it by itself"


class KeyFault(KeyTrouble):
    key: str
    what: str
    code = "key-fault"
    sentence = "{0.key}: {0.what}"
    hint = "unplug it and plug it in again; if that does not help, the key or its cable is faulty"


class KeySilent(KeyTrouble):
    key: str
    waited_ms: int
    code = "key-silent"
    sentence = "{0.key} gave no valid frame for {0.waited_ms} ms"
    hint = "unplug it and plug it in again"


class KeySelfStopped(KeyTrouble):
    key: str
    badness: str
    meaning: str
    code = "key-self-stopped"
    sentence = "{0.key} has stopped itself: {0.meaning} (badness '{0.badness}')"
    hint = "unplug it for a minute; if it happens again, retire it"


class NoLongTermKey(KeyTrouble):
    serial: str
    keyring: str
    code = "no-long-term-key"
    sentence = "{0.keyring} has no long-term key for the Entropy Key {0.serial}"
    hint = (
        "'virtrng keys pair {0.serial}' pairs it, with the card that came with it; "
        "'virtrng keys import-ekeyd' takes over ekeyd's keyring"
    )


class WrongLongTermKey(KeyTrouble):
    serial: str
    keyring: str
    code = "wrong-long-term-key"
    sentence = "the long-term key in {0.keyring} is not that of the Entropy Key {0.serial}"
    hint = (
        "the key was paired again elsewhere: 'virtrng keys pair {0.serial}', or take the new line from there"
    )


class BadKeyring(KeyTrouble):
    keyring: str
    why: str
    want: str
    code = "bad-keyring"
    sentence = "{0.keyring}: {0.why}"
    hint = "{0.want}"


class KeyringBusy(KeyTrouble):
    keyring: str
    holder: str
    code = "keyring-busy"
    sentence = "{0.keyring} is being changed by {0.holder}"
    hint = "wait for it to end, then run the same command again"


class BadMasterKey(VirtrngError):
    where: str
    why: str
    code = "bad-master-key"
    sentence = "{0.where}: {0.why}"
    hint = "it is the 44 characters on the card that came with the key; spaces do not matter"


class SeveralUnpaired(KeyTrouble):
    keys: str
    code = "several-unpaired"
    exit_code = ExitCode.USAGE
    sentence = "more than one key is not paired yet"
    hint = "name one of them: {0.keys}"


class WrongMasterKey(KeyTrouble):
    serial: str
    code = "wrong-master-key"
    sentence = "the master key is not that of the Entropy Key {0.serial}"
    hint = "take the card that came with this key; its long-term key, if it has one, is still the same"


class PairingLocked(KeyTrouble):
    serial: str
    code = "pairing-locked"
    sentence = "the Entropy Key {0.serial} is locked out of pairing"
    hint = "unplug it, plug it in again, and run the same command again"


class PairingUnfinished(KeyTrouble):
    serial: str
    why: str
    code = "pairing-unfinished"
    sentence = "the Entropy Key {0.serial} may have a new long-term key that is in no keyring: {0.why}"
    hint = "mend that, then run the same command again; until then the key may be of no use"
