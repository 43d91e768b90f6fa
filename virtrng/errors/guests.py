# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can happen on the way to a guest."""

from virtrng.errors.base import ExitCode, VirtrngError


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


class NoGuestNamed(VirtrngError):
    code = "no-guest-named"
    exit_code = ExitCode.USAGE
    sentence = "no guest is named"
    hint = "name guests, or take --all, --match GLOB, --running or --inactive"


class NoGuestMatches(VirtrngError):
    glob: str
    uri: str
    code = "no-guest-matches"
    sentence = "no guest's name matches '{0.glob}' at {0.uri}"
    hint = "'virsh -c {0.uri} list --all' shows their names; the shell needs quotes around a glob"


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


class OldLibvirt(VirtrngError):
    version: str
    needed: str
    code = "old-libvirt"
    exit_code = ExitCode.REFUSED
    sentence = "libvirt {0.version} runs no hook but hooks/qemu, which may be somebody else's"
    hint = "install libvirt {0.needed} or newer; 'virtrng enable' works without the hook"


class NotReloaded(VirtrngError):
    daemon: str
    reason: str
    code = "not-reloaded"
    sentence = "{0.daemon} has not looked for hooks anew: {0.reason}"
    hint = (
        "run 'systemctl restart {0.daemon}' (guests run on); if SELinux keeps it from running hooks,"
        " see docs/hook.md"
    )


class ReloadElsewhere(VirtrngError):
    directory: str
    code = "reload-elsewhere"
    exit_code = ExitCode.USAGE
    sentence = "--reload is for libvirt's own hooks directory, and {0.directory} is another"
    hint = "reload the libvirtd of that directory yourself"


class BadMemory(VirtrngError):
    file: str
    why: str
    code = "bad-memory"
    sentence = "{0.file}: {0.why}"
    hint = (
        "it tells which guests were there before the watcher: put it back from a backup, or move it away,"
        " and all that are there now count as such"
    )


class WatcherRunning(VirtrngError):
    holder: str
    code = "watcher-running"
    sentence = "another watcher runs: {0.holder}"
    hint = "'virtrng watch --once' works beside it; 'systemctl stop virtrng-watch' ends it"
