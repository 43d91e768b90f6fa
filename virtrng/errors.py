# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every error that a user of virtrng can meet: one sentence, one remedy, one exit code.

A class states its texts as templates over its own fields, so that the datum a
caller acts on and the words a person reads cannot drift apart; the sentence says
what the class is for. `code` is the stable name for scripts. This module imports
nothing of ours.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, dataclass_transform


class ExitCode(IntEnum):
    """The exit status of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NO_KEY = 4
    SOME_FAILED = 5


@dataclass_transform(eq_default=False)
@dataclass(eq=False)
class VirtrngError(Exception):
    """The root of the tree; never raised itself. Each class below is a dataclass of its annotations."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[ExitCode] = ExitCode.FAILED
    sentence: ClassVar[str] = ""
    hint: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        """Make a dataclass of it; two errors are never equal."""
        dataclass(eq=False)(cls)

    def __str__(self) -> str:
        """One fact, in lower case, without a full stop."""
        return self.sentence.format(self)

    @property
    def remedy(self) -> str:
        """What the user can do about it, for a line of its own."""
        return self.hint.format(self)


# --- the machine and its files


class ConfigError(VirtrngError):
    file: str
    path: str
    value: str
    allowed: str
    code = "bad-configuration"
    exit_code = ExitCode.USAGE
    sentence = "{0.file}: {0.path} is {0.value}"
    hint = "allowed: {0.allowed}"


class ConfigUnreadable(VirtrngError):
    file: str
    reason: str
    code = "unreadable-configuration"
    exit_code = ExitCode.USAGE
    sentence = "{0.file}: {0.reason}"
    hint = "'virtrng render virtrng.toml' prints a sample"


class FileFailed(VirtrngError):
    file: str
    doing: str
    reason: str
    code = "file-failed"
    sentence = "cannot {0.doing} {0.file}: {0.reason}"
    hint = "check its directory, its permissions and the space on its disk"


class TooShort(VirtrngError):
    file: str
    need_bytes: int
    code = "too-short"
    sentence = "{0.file} is too short to test"
    hint = "one block needs {0.need_bytes} bytes"


class NoSuchTemplate(VirtrngError):
    name: str
    known: str
    code = "no-such-template"
    exit_code = ExitCode.USAGE
    sentence = "no template is called '{0.name}'"
    hint = "there are: {0.known}"


# --- keys


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


# --- pairing


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


# --- the kernel and the feeder


class KernelRefused(VirtrngError):
    ioctl: str
    reason: str
    code = "kernel-refused"
    sentence = "/dev/random refused {0.ioctl}: {0.reason}"
    hint = "the feeder needs CAP_SYS_ADMIN in the initial user namespace: run it as root, not in a container"


class FeederRunning(VirtrngError):
    holder: str
    key: str
    code = "feeder-running"
    sentence = "{0.key} is in use by {0.holder}"
    hint = "'virtrng status' shows what it does; stop it first, or give this one another run_dir and key"


class BadStatus(VirtrngError):
    file: str
    why: str
    code = "bad-status"
    sentence = "{0.file}: {0.why}"
    hint = "restart the feeder; it writes the file anew"


# --- libvirt and guests


class NoHypervisor(VirtrngError):
    uri: str
    reason: str
    code = "no-hypervisor"
    sentence = "no libvirt answers at {0.uri}: {0.reason}"
    hint = "start it ('systemctl start libvirtd'), or name another with -c URI"


class HypervisorDenied(VirtrngError):
    uri: str
    reason: str
    code = "hypervisor-denied"
    sentence = "libvirt at {0.uri} refuses this user: {0.reason}"
    hint = "run as root, or join the group 'libvirt'"


class HypervisorFault(VirtrngError):
    doing: str
    reason: str
    code = "hypervisor-fault"
    sentence = "libvirt failed to {0.doing}: {0.reason}"
    hint = "run the same command again; if it fails again, libvirt's log tells more"


class NoSuchDomain(VirtrngError):
    domain: str
    uri: str
    code = "no-such-domain"
    sentence = "no guest is called '{0.domain}' at {0.uri}"
    hint = "'virsh -c {0.uri} list --all' shows their names"


class DomainBusy(VirtrngError):
    domain: str
    reason: str
    code = "domain-busy"
    sentence = "{0.domain} is busy: {0.reason}"
    hint = "wait for its start, save or migration to end, then run the same command again"


class NotAttached(VirtrngError):
    domain: str
    where: str
    what: str
    code = "not-verified"
    sentence = "{0.domain}: {0.what} {0.where}, although libvirt reported success"
    hint = "something else changes this guest at the same time: run the same command again"


class Refused(VirtrngError):
    domain: str
    why: str
    way_out: str
    code = "refused"
    exit_code = ExitCode.REFUSED
    sentence = "{0.domain}: {0.why}"
    hint = "{0.way_out}"


class MalformedXml(VirtrngError):
    line: int
    column: int
    reason: str
    code = "malformed-xml"
    sentence = "line {0.line}, column {0.column}: {0.reason}"
    hint = "the input must be libvirt domain XML, as 'virsh dumpxml' prints it"


# --- the hook


class UnsafeHook(VirtrngError):
    file: str
    code = "unsafe-hook"
    exit_code = ExitCode.REFUSED
    sentence = "{0.file} can be written by others than root, and the hook would run it as root"
    hint = (
        "install virtrng with 'make install', or give the hook of a checkout another place with --hooks-dir"
    )


class ForeignHook(VirtrngError):
    file: str
    code = "foreign-hook"
    sentence = "{0.file} exists and was not written by virtrng"
    hint = "move it away, then run the same command again"


# --- simulated keys


class PlaceTaken(VirtrngError):
    place: str
    why: str
    code = "place-taken"
    sentence = "{0.place} cannot hold a simulated key: {0.why}"
    hint = "choose another place; or free that one, if no simulated key is in use there"
