# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can keep the feeder from feeding."""

from virtrng.errors.base import VirtrngError


class KernelRefused(VirtrngError):
    ioctl: str
    reason: str
    code = "kernel-refused"
    sentence = "/dev/random refused {0.ioctl}: {0.reason}"
    hint = "the feeder needs CAP_SYS_ADMIN in the initial user namespace: run it as root, not in a container"


class InjectorLost(VirtrngError):
    why: str
    code = "injector-lost"
    sentence = "the process that seeds the kernel's pool {0.why}"
    hint = "start the feeder again; the service does so by itself. No seed is ever given twice"


class SeparationFailed(VirtrngError):
    step: str
    reason: str
    code = "separation-failed"
    sentence = "cannot give up privileges: {0.step}: {0.reason}"
    hint = "a seccomp filter may forbid it; 'virtrng render virtrng-feeder.service' prints a unit that works"


class StillPrivileged(VirtrngError):
    capabilities: str
    code = "still-privileged"
    sentence = (
        "the process that reads keys still has capabilities, and reads none with them: {0.capabilities}"
    )
    hint = "those that the interpreter's file gives ('getcap') cannot be given up; it must give none"


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
    hint = "restart what writes it: virtrng-feeder or virtrng-watch"


class FedTooLittle(VirtrngError):
    fed_bytes: int
    wanted_bytes: int
    waited_s: int
    code = "fed-too-little"
    sentence = "{0.fed_bytes} of {0.wanted_bytes} tested bytes were fed within {0.waited_s} s"
    hint = "'virtrng status' shows what the feeder waits for"
