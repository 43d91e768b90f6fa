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
