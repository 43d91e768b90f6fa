# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every error that a user of virtrng can meet: one sentence, one remedy, one exit code.

A class states its texts as templates over its own fields, so that the datum a
caller acts on and the words a person reads cannot drift apart. `code` is the
stable name for scripts. This module imports nothing of ours.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """The exit status of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NO_KEY = 4
    SOME_FAILED = 5


@dataclass(eq=False)
class VirtrngError(Exception):
    """The root of the tree; never raised itself."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[ExitCode] = ExitCode.FAILED
    sentence: ClassVar[str] = ""
    hint: ClassVar[str] = ""

    def __str__(self) -> str:
        """One fact, in lower case, without a full stop."""
        return self.sentence.format(self)

    @property
    def remedy(self) -> str:
        """What the user can do about it, for a line of its own."""
        return self.hint.format(self)


# --- the machine and its files


@dataclass(eq=False)
class ConfigError(VirtrngError):
    """A value of the configuration that is unknown or out of range."""

    file: str
    path: str
    value: str
    allowed: str
    code = "bad-configuration"
    exit_code = ExitCode.USAGE
    sentence = "{0.file}: {0.path} is {0.value}"
    hint = "allowed: {0.allowed}"


@dataclass(eq=False)
class ConfigUnreadable(VirtrngError):
    """A configuration file that cannot be opened, or is not TOML."""

    file: str
    reason: str
    code = "unreadable-configuration"
    exit_code = ExitCode.USAGE
    sentence = "{0.file}: {0.reason}"
    hint = "'virtrng render virtrng.toml' prints a sample"


@dataclass(eq=False)
class FileFailed(VirtrngError):
    """A file that could not be read or written."""

    file: str
    doing: str
    reason: str
    code = "file-failed"
    sentence = "cannot {0.doing} {0.file}: {0.reason}"
    hint = "check its directory, its permissions and the space on its disk"


@dataclass(eq=False)
class TooShort(VirtrngError):
    """Input for 'virtrng test' without a single whole block."""

    file: str
    need_bytes: int
    code = "too-short"
    sentence = "{0.file} is too short to test"
    hint = "one block needs {0.need_bytes} bytes"


@dataclass(eq=False)
class NoSuchTemplate(VirtrngError):
    """A name that 'virtrng render' does not know."""

    name: str
    known: str
    code = "no-such-template"
    exit_code = ExitCode.USAGE
    sentence = "no template is called '{0.name}'"
    hint = "there are: {0.known}"


# --- keys


class KeyTrouble(VirtrngError):
    """Anything that one key did; the daemon loop contains it to that key."""


@dataclass(eq=False)
class NoKey(KeyTrouble):
    """No supported key is plugged in."""

    code = "no-key"
    exit_code = ExitCode.NO_KEY
    sentence = "no supported key is plugged in"
    hint = (
        "'virtrng keys --supported' lists the products; 'virtrng feed --simulate entropykey' runs without one"
    )


@dataclass(eq=False)
class NoSuchKey(KeyTrouble):
    """KEY names none of the keys present."""

    key: str
    present: str
    code = "no-such-key"
    exit_code = ExitCode.NO_KEY
    sentence = "no key matches '{0.key}'"
    hint = "present: {0.present}"


@dataclass(eq=False)
class KeyInUse(KeyTrouble):
    """Another program holds the key."""

    key: str
    holder: str
    code = "key-in-use"
    sentence = "{0.key} is in use by {0.holder}"
    hint = "stop that program first, or choose another key"


@dataclass(eq=False)
class KeyDenied(KeyTrouble):
    """The device node of a key may not be opened."""

    key: str
    node: str
    code = "key-denied"
    sentence = "no permission to open {0.key} at {0.node}"
    hint = "run as root"


@dataclass(eq=False)
class KeyLost(KeyTrouble):
    """A key went away while it was being used."""

    key: str
    doing: str
    code = "key-lost"
    sentence = "{0.key} was lost while {0.doing}"
    hint = "plug it in again; a running feeder finds it by itself"


@dataclass(eq=False)
class KeyFault(KeyTrouble):
    """A key, or the way to it, did something that the protocol does not allow."""

    key: str
    what: str
    code = "key-fault"
    sentence = "{0.key}: {0.what}"
    hint = "unplug it and plug it in again; if that does not help, the key or its cable is faulty"


@dataclass(eq=False)
class KeySilent(KeyTrouble):
    """A key gave nothing usable for too long."""

    key: str
    waited_ms: int
    code = "key-silent"
    sentence = "{0.key} gave no valid frame for {0.waited_ms} ms"
    hint = "unplug it and plug it in again"


@dataclass(eq=False)
class KeySelfStopped(KeyTrouble):
    """A key that stopped itself because its own tests failed."""

    key: str
    badness: str
    meaning: str
    code = "key-self-stopped"
    sentence = "{0.key} has stopped itself: {0.meaning} (badness '{0.badness}')"
    hint = "unplug it for a minute; if it happens again, retire it"


@dataclass(eq=False)
class NoLongTermKey(KeyTrouble):
    """An Entropy Key whose long-term key is not in the keyring."""

    serial: str
    keyring: str
    code = "no-long-term-key"
    sentence = "{0.keyring} has no long-term key for the Entropy Key {0.serial}"
    hint = "add the line '{0.serial} LONG-TERM-KEY' to it; ekeyd's keyring has the same format"


@dataclass(eq=False)
class WrongLongTermKey(KeyTrouble):
    """An Entropy Key whose frames do not verify under the long-term key at hand."""

    serial: str
    keyring: str
    code = "wrong-long-term-key"
    sentence = "the long-term key in {0.keyring} is not that of the Entropy Key {0.serial}"
    hint = "the key was paired again elsewhere: take the new line from the keyring it was paired into"


@dataclass(eq=False)
class BadKeyring(KeyTrouble):
    """A keyring that is malformed, or readable by more people than it may be."""

    keyring: str
    why: str
    want: str
    code = "bad-keyring"
    sentence = "{0.keyring}: {0.why}"
    hint = "{0.want}"


# --- the kernel and the feeder


@dataclass(eq=False)
class KernelRefused(VirtrngError):
    """/dev/random refused an ioctl that needs CAP_SYS_ADMIN."""

    ioctl: str
    reason: str
    code = "kernel-refused"
    sentence = "/dev/random refused {0.ioctl}: {0.reason}"
    hint = "the feeder needs CAP_SYS_ADMIN in the initial user namespace: run it as root, not in a container"


@dataclass(eq=False)
class FeederRunning(VirtrngError):
    """A second feeder was started beside a running one."""

    holder: str
    key: str
    code = "feeder-running"
    sentence = "{0.key} is in use by {0.holder}"
    hint = "'virtrng status' shows what it does; stop it first, or give this one another run_dir and key"


@dataclass(eq=False)
class BadStatus(VirtrngError):
    """feeder.json is not what a feeder of this version writes."""

    file: str
    why: str
    code = "bad-status"
    sentence = "{0.file}: {0.why}"
    hint = "restart the feeder; it writes the file anew"


# --- libvirt and guests


@dataclass(eq=False)
class NoHypervisor(VirtrngError):
    """No libvirt daemon answers at the URI."""

    uri: str
    reason: str
    code = "no-hypervisor"
    sentence = "no libvirt answers at {0.uri}: {0.reason}"
    hint = "start it ('systemctl start libvirtd'), or name another with -c URI"


@dataclass(eq=False)
class HypervisorDenied(VirtrngError):
    """libvirt refused this user."""

    uri: str
    reason: str
    code = "hypervisor-denied"
    sentence = "libvirt at {0.uri} refuses this user: {0.reason}"
    hint = "run as root, or join the group 'libvirt'"


@dataclass(eq=False)
class HypervisorFault(VirtrngError):
    """libvirt answered with an error that has no class of its own here."""

    doing: str
    reason: str
    code = "hypervisor-fault"
    sentence = "libvirt failed to {0.doing}: {0.reason}"
    hint = "nothing was left half done; try again, and see libvirt's log if it persists"


@dataclass(eq=False)
class NoSuchDomain(VirtrngError):
    """A name, UUID or id that no guest has."""

    domain: str
    uri: str
    code = "no-such-domain"
    sentence = "no guest is called '{0.domain}' at {0.uri}"
    hint = "'virsh -c {0.uri} list --all' shows their names"


@dataclass(eq=False)
class DomainBusy(VirtrngError):
    """Another operation held the guest for longer than libvirt waits."""

    domain: str
    reason: str
    code = "domain-busy"
    sentence = "{0.domain} is busy: {0.reason}"
    hint = "wait for its start, save or migration to end, then run the same command again"


@dataclass(eq=False)
class NotAttached(VirtrngError):
    """libvirt reported success, but the device is not there (or is still there)."""

    domain: str
    where: str
    what: str
    code = "not-verified"
    sentence = "{0.domain}: {0.what} {0.where}, although libvirt reported success"
    hint = "something else changes this guest at the same time: run the same command again"


@dataclass(eq=False)
class Refused(VirtrngError):
    """Policy, or the guest's machine, forbids what was asked."""

    domain: str
    why: str
    way_out: str
    code = "refused"
    exit_code = ExitCode.REFUSED
    sentence = "{0.domain}: {0.why}"
    hint = "{0.way_out}"


@dataclass(eq=False)
class MalformedXml(VirtrngError):
    """Input that is not well-formed XML, or not a domain."""

    line: int
    column: int
    reason: str
    code = "malformed-xml"
    sentence = "line {0.line}, column {0.column}: {0.reason}"
    hint = "the input must be libvirt domain XML, as 'virsh dumpxml' prints it"


# --- the hook


@dataclass(eq=False)
class UnsafeHook(VirtrngError):
    """The hook would run, as root, a file that others than root can change."""

    file: str
    code = "unsafe-hook"
    exit_code = ExitCode.REFUSED
    sentence = "{0.file} can be written by others than root, and the hook would run it as root"
    hint = (
        "install virtrng with 'make install', or give the hook of a checkout another place with --hooks-dir"
    )


@dataclass(eq=False)
class ForeignHook(VirtrngError):
    """A file that is not ours stands where our hook goes."""

    file: str
    code = "foreign-hook"
    sentence = "{0.file} exists and was not written by virtrng"
    hint = "move it away, then run the same command again"
