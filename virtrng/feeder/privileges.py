# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two processes in the place of one: who may seed the pool reads no key, who reads keys may do nothing.

`virtrng feed` comes here twice. The first time it forks the injector, gives up all
that it may do, and executes its own command anew, since the kernel takes ambient
capabilities away at an execve(2), where a service's seccomp filter forbids capset(2).
The second time it finds the injector's socket, sees that it may do nothing, and goes on.
"""

import logging
import os
import pwd
import signal
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from virtrng import files, status
from virtrng.errors import (
    FeederRunning,
    FileFailed,
    InjectorLost,
    SeparationFailed,
    StillPrivileged,
    VirtrngError,
)
from virtrng.feeder import capabilities as caps
from virtrng.feeder import injector_process
from virtrng.feeder.injector import Injector

log = logging.getLogger(__name__)

USER = "virtrng"
VARIABLE = "VIRTRNG_INJECTOR"  # "DESCRIPTOR:PID", for the second time
_FILES = "feeder."  # what a feeder writes begins so; what it has not finished, with a dot before it
PACKAGE = Path(__file__).resolve().parents[1]
# The whole group gets these from a terminal, or from the service manager. The injector has still
# to take the last seed; it ends when the reader does.
_THE_READERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def separate(run_dir: Path, *, reseed: bool) -> Injector:
    """Return the way to the injector, in a process that holds no capability.

    To be called before there is any thread, open device or lock. It does not return
    the first time, but executes the same command anew. Root becomes the user
    'virtrng' where there is one that can read this package, and `run_dir` is then
    made and given to it; otherwise the reader stays user 0 without a capability, and that is logged.

    Raises KernelRefused or FileFailed where the injector cannot work, FeederRunning,
    SeparationFailed, StillPrivileged, InjectorLost.
    """
    handed_over = os.environ.pop(VARIABLE, None)
    if handed_over is not None:
        return _resumed(handed_over)
    connection, pid = _fork_injector(reseed=reseed)
    injector = Injector(connection, pid)
    try:
        injector.began()
        environment = {VARIABLE: f"{connection.fileno()}:{pid}"}
        if os.geteuid() == 0:
            environment |= _leave_root(run_dir)
        caps.no_new_privileges()
        caps.clear_ambient()
        connection.set_inheritable(True)
        _execute(os.environ | environment)
    except BaseException:
        injector.close()
        raise


def _resumed(handed_over: str) -> Injector:
    try:
        fd, pid = (int(word) for word in handed_over.split(":"))
        connection = socket.socket(fileno=fd)
        connection.set_inheritable(False)
        injector = Injector(connection, pid)
    except (ValueError, OSError) as error:
        raise InjectorLost(f"is not at {VARIABLE}={handed_over}") from error
    try:
        if held := caps.permitted():
            raise StillPrivileged(f"{held:x}")
        injector.check()
    except VirtrngError:
        injector.close()
        raise
    return injector


def _execute(environment: dict[str, str]) -> NoReturn:
    try:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)  # noqa: S606  no shell is wanted
    except OSError as error:
        raise SeparationFailed(f"execute {sys.executable}", error.strerror or str(error)) from error


# --- the injector


def _fork_injector(*, reseed: bool) -> tuple[socket.socket, int]:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader = os.getpid()
    pid = os.fork()
    if pid == 0:
        try:
            for number in _THE_READERS:
                signal.signal(number, signal.SIG_IGN)
            its.set_inheritable(True)
            command = [sys.executable, "-I", "-S", "-B", injector_process.__file__]
            command += [str(its.fileno()), str(reader), str(int(reseed))]
            os.execv(command[0], command)  # noqa: S606  no shell is wanted
        finally:
            os._exit(1)
    its.close()
    return ours, pid


# --- the reader


def _leave_root(run_dir: Path) -> dict[str, str]:
    """Give up user 0 where there is another to be, and in any case what it may do; return what to set."""
    user = _user_for(run_dir)
    who = (0, 0) if isinstance(user, str) else (user.pw_uid, user.pw_gid)
    _give(run_dir, *who)
    if caps.holds(caps.CAP_SETPCAP):
        caps.lock_out_root()
    environment = {}
    if isinstance(user, str):
        log.info("the process that reads keys stays user 0, without any capability: %s", user)
    else:
        _become(user)
        environment = {"HOME": user.pw_dir, "USER": user.pw_name, "LOGNAME": user.pw_name}
    caps.keep_only()
    return environment


def _user_for(run_dir: Path) -> pwd.struct_passwd | str:
    """Return whom the reader can be, or why nobody but root."""
    try:
        user = pwd.getpwnam(USER)
    except KeyError:
        return f"there is no user '{USER}'"
    if not caps.holds(caps.CAP_CHOWN, caps.CAP_SETGID, caps.CAP_SETUID):
        return f"it may not become '{USER}'"
    _make(run_dir)
    if not _is_ours(run_dir):
        return f"{run_dir} has other things in it, and is not given to '{USER}'"
    with _as(user):
        for path in _needed(run_dir):
            mode = os.R_OK | os.X_OK if path.is_dir() or path == Path(sys.executable) else os.R_OK
            if not os.access(path, mode, effective_ids=True):
                return f"'{USER}' has no access to {path}"
    return user


def _needed(run_dir: Path) -> Iterator[Path]:
    yield from (Path(sys.executable), Path(sys.argv[0]).absolute(), run_dir, PACKAGE)
    yield from PACKAGE.rglob("*.py")


def _become(user: pwd.struct_passwd) -> None:
    try:
        os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
        os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
        os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    except OSError as error:
        raise SeparationFailed(f"become '{user.pw_name}'", error.strerror or str(error)) from error


@contextmanager
def _as(user: pwd.struct_passwd) -> Iterator[None]:
    """Be that user to the file system for a while."""
    groups, group = os.getgroups(), os.getegid()
    try:
        os.setgroups(os.getgrouplist(user.pw_name, user.pw_gid))
        os.setegid(user.pw_gid)
        os.seteuid(user.pw_uid)
        yield
    except OSError as error:
        raise SeparationFailed(f"become '{user.pw_name}'", error.strerror or str(error)) from error
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


# --- run_dir


def _make(run_dir: Path) -> None:
    try:
        if not run_dir.exists():
            run_dir.mkdir(parents=True)
            run_dir.chmod(0o755)
    except OSError as error:
        raise FileFailed(str(run_dir), "make", error.strerror or str(error)) from error


def _is_ours(run_dir: Path) -> bool:
    """Whether a feeder made all that is in it: a mistaken run_dir, /run say, must not be given away."""
    return all(name.lstrip(".").startswith(_FILES) for name in os.listdir(run_dir))


def _give(run_dir: Path, uid: int, gid: int) -> None:
    """Let the reader have `run_dir`, whoever read there before. Raises FeederRunning where one still does."""
    _make(run_dir)
    lock = run_dir / status.LOCK_NAME
    try:
        # The directory may be a user's: what is in it may be anything by now.
        with _opened(run_dir, os.O_DIRECTORY) as directory:
            try:
                with _opened(lock, os.O_NOFOLLOW | os.O_NONBLOCK) as fd:
                    _give_lock(fd, lock, uid, gid)
            except FileNotFoundError:
                pass
            if os.fstat(directory).st_uid != uid and _is_ours(run_dir):
                os.fchown(directory, uid, gid)
    except OSError as error:
        raise FileFailed(str(run_dir), "take over", error.strerror or str(error)) from error


def _give_lock(fd: int, lock: Path, uid: int, gid: int) -> None:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise FileFailed(str(lock), "take over", "it is not a file of its own")
    if holder := files.holder(Path(f"/proc/self/fd/{fd}")):
        raise FeederRunning(holder, str(lock.parent))
    if found.st_uid != uid:
        os.fchown(fd, uid, gid)


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        yield fd
    finally:
        os.close(fd)
