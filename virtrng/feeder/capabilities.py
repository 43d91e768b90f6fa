# SPDX-License-Identifier: LGPL-2.1-or-later
"""What this process may do, and how it gives that up: capabilities(7), by way of libc.

Python has no function for prctl(2) and capset(2). Not in virtrng.kernel: the
libvirt hook imports that, and has no use for ctypes. Where the kernel says no,
SeparationFailed is raised.
"""

import ctypes
import os
import struct

from virtrng.errors import SeparationFailed

# linux/capability.h; see capabilities(7)
CAP_CHOWN = 0
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SETPCAP = 8
CAP_SYS_ADMIN = 21

# linux/prctl.h; each has a manual page of its own since man-pages 6.10, all are in prctl(2)
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NAME = 15
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_SECUREBITS = 28
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4

# linux/securebits.h: NOROOT, NO_SETUID_FIXUP and NO_CAP_AMBIENT_RAISE, each with its lock
# (the bit above it), and KEEP_CAPS locked at 0.
_SECUREBITS = 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40 | 0x80

_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_CAPABILITIES_MAX = 64

_LIBC = ctypes.CDLL(None, use_errno=True)


def permitted() -> int:
    """Return the permitted set of this process, one bit a capability: CapPrm in proc(5)."""
    try:
        with open("/proc/self/status") as file:
            lines = list(file)
    except OSError as error:
        raise SeparationFailed("read /proc/self/status", error.strerror or str(error)) from error
    (found,) = (line for line in lines if line.startswith("CapPrm:"))
    return int(found.split()[1], 16)


def holds(*capabilities: int) -> bool:
    """Whether all of them are permitted."""
    wanted = _mask(*capabilities)
    return permitted() & wanted == wanted


def keep_only(*capabilities: int) -> None:
    """Give up all others, the inheritable and the ambient set with them.

    Where nothing else is permitted anyway, capset(2) is not called: the service's
    seccomp filter forbids it, and its user has no other capability.
    """
    clear_ambient()
    now = permitted()
    kept = now & _mask(*capabilities)
    if kept == now:
        return
    # struct __user_cap_header_struct: version, pid; twice __user_cap_data_struct: effective,
    # permitted, inheritable, the lower 32 bits first.
    low, high = kept & 0xFFFFFFFF, kept >> 32
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    _check("capset", _LIBC.capset(header, struct.pack("=6I", low, low, 0, high, high, 0)))


def clear_ambient() -> None:
    """Keep what is permitted until the next execve(2), and no longer. Needs nothing."""
    _prctl("PR_CAP_AMBIENT", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)


def lock_out_root() -> None:
    """From now on user 0 gets no capability from being user 0, here and in all that this process executes.

    Empties the bounding set too. Needs CAP_SETPCAP.
    """
    _prctl("PR_SET_SECUREBITS", _PR_SET_SECUREBITS, _SECUREBITS)
    empty_bounding_set()


def empty_bounding_set() -> None:
    """See to it that no execve(2) gives a capability. Needs CAP_SETPCAP."""
    for capability in range(_CAPABILITIES_MAX):
        if _LIBC.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) < 0:  # the last was before it
            return
        _prctl("PR_CAPBSET_DROP", _PR_CAPBSET_DROP, capability)


def no_new_privileges() -> None:
    """See to it that no execve(2) gives more than there is now, by whatever way. Needs nothing."""
    _prctl("PR_SET_NO_NEW_PRIVS", _PR_SET_NO_NEW_PRIVS, 1)


def withdraw(name: str, dies_by: int) -> None:
    """Call this process `name` in ps(1), close its memory to its user, and let it die with its parent.

    No core dump, no ptrace(2). `dies_by` is the signal.
    """
    _prctl("PR_SET_NAME", _PR_SET_NAME, ctypes.c_char_p(name.encode()))
    _prctl("PR_SET_DUMPABLE", _PR_SET_DUMPABLE, 0)
    _prctl("PR_SET_PDEATHSIG", _PR_SET_PDEATHSIG, dies_by)


def _mask(*capabilities: int) -> int:
    return sum(1 << capability for capability in capabilities)


def _prctl(name: str, option: int, argument: "int | ctypes.c_char_p") -> None:
    # The unused arguments have to be 0, as unsigned long (prctl(2)).
    value = argument if isinstance(argument, ctypes.c_char_p) else ctypes.c_ulong(argument)
    zero = ctypes.c_ulong(0)
    _check(f"prctl({name})", _LIBC.prctl(option, value, zero, zero, zero))


def _check(call: str, result: int) -> None:
    if result < 0:
        raise SeparationFailed(call, os.strerror(ctypes.get_errno()))
