# SPDX-License-Identifier: LGPL-2.1-or-later
"""What can keep the feeder from feeding."""

from virtrng.errors.base import VirtrngError


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
