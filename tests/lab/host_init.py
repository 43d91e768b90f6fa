# SPDX-License-Identifier: LGPL-2.1-or-later
"""PID 1 of a lab host: makes it private, runs its libvirtd, and takes everything down when its owner is gone.

Started by host.py under 'unshare --mount --uts --pid --fork', with a HostSpec in JSON as argument. It reads
commands from stdin, a line each, and answers each with one line, 'ok' or 'error: WHY'. When stdin ends or the
owner dies, kill -9 included, it kills whatever runs in its PID namespace (QEMU processes have left libvirtd's
process group, but cannot leave that), removes the host's directory, and ends; the kernel drops the mounts.

It runs with 'python3 -I -S' and imports nothing of ours.
"""

import ctypes
import json
import os
import selectors
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

MS_BIND, MS_REC, MS_PRIVATE, MNT_DETACH = 0x1000, 0x4000, 0x40000, 2  # <sys/mount.h>
CLONE_NEWNS = 0x20000  # <sched.h>
DAEMON_STOP_S = 20.0  # libvirtd 9 ends within 0.2 s here

libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0) -> None:
    """Wrap mount(2)."""
    arguments = (source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), None)
    _checked(libc.mount(*arguments), f"mount {source} on {target}")


def make_mounts_private() -> None:
    """Keep every mount made from now on out of the machine's own mount namespace.

    'unshare --propagation private' cannot do that in a plain chroot, whose / is not a mount point: there the
    real root of our namespace is made private, which setns(2) takes us to, and then our own / is taken again.
    """
    ours = os.open("/", os.O_PATH)
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    _checked(libc.setns(namespace, CLONE_NEWNS), "setns")
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    os.fchdir(ours)
    os.chroot(".")
    os.close(ours)
    os.close(namespace)


def provide_directory(target: Path) -> None:
    """Have a directory at 'target', as a mount point, without making one on the machine's disk.

    Where it is missing, its parent is covered by a tmpfs in which everything that was there is bound again.
    """
    if target.is_dir():
        return
    parent = target.parent
    provide_directory(parent)
    covered = os.open(parent, os.O_PATH | os.O_DIRECTORY)
    mount("tmpfs", str(parent), "tmpfs")
    beneath = f"/proc/self/fd/{covered}"
    for entry in os.scandir(beneath):
        here = parent / entry.name
        if entry.is_symlink():
            here.symlink_to(os.readlink(entry.path))
            continue
        if entry.is_dir():
            here.mkdir()
        else:
            here.touch()
        mount(entry.path, str(here), flags=MS_BIND | MS_REC)
    os.close(covered)
    target.mkdir()


def become_host(hostname: str, binds: dict[str, str]) -> None:
    """Put the private directories in place, and nothing of the machine's cgroups."""
    make_mounts_private()
    # No cgroup file system: libvirtd then leaves the machine's cgroups alone.
    while libc.umount2(b"/sys/fs/cgroup", MNT_DETACH) == 0:
        pass
    for target, source in binds.items():
        if not Path(target).is_file():
            provide_directory(Path(target))
        mount(source, target, flags=MS_BIND)
    # Last: our PID in the old /proc is what /proc/self needed until here.
    mount("proc", "/proc", "proc")
    socket.sethostname(hostname)


class Daemon:
    """The host's libvirtd, and the namespace's orphans: an unreaped QEMU would look alive to libvirtd."""

    def __init__(self, command: list[str], log: str, environment: dict[str, str]) -> None:
        self.command, self.log, self.environment = command, log, environment
        self.pid: int | None = None

    def start(self) -> str:
        if self.pid is not None:
            return "error: libvirtd runs already"
        into_log = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self.pid = os.posix_spawn(
            self.command[0],
            self.command,
            self.environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, self.log, into_log, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores these, and that is inherited
        )
        return "ok"

    def send(self, number: signal.Signals) -> str:
        if self.pid is None:
            return "error: libvirtd does not run"
        os.kill(self.pid, number)
        return "ok"

    def reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                self.pid = None


class Supervisor:
    """The loop: commands, children that end, the owner's death."""

    def __init__(self, daemon: Daemon, owner: int) -> None:
        self.daemon = daemon
        self.selector = selectors.DefaultSelector()
        self.selector.register(0, selectors.EVENT_READ, "command")
        self.selector.register(owner, selectors.EVENT_READ, "owner")  # a pidfd: readable once that has ended
        self.child_ended, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.selector.register(self.child_ended, selectors.EVENT_READ, "child")
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def wait(self, timeout_s: float | None = None) -> set[str]:
        """Return what happened, children already reaped."""
        happened = {str(key.data) for key, _ in self.selector.select(timeout_s)}
        if "child" in happened:
            os.read(self.child_ended, 4096)
            self.daemon.reap()
        return happened

    def stop_daemon(self) -> str:
        answer = self.daemon.send(signal.SIGTERM)
        deadline = time.monotonic() + DAEMON_STOP_S
        while self.daemon.pid is not None:
            left_s = deadline - time.monotonic()
            if left_s < 0 and answer == "ok":
                self.daemon.send(signal.SIGKILL)
                answer = f"error: libvirtd had to be killed, {DAEMON_STOP_S:.0f} s after SIGTERM"
            if "owner" in self.wait(max(left_s, 0.1)):
                break
        return answer

    def answer(self, command: str) -> str:
        if command == "start":
            return self.daemon.start()
        if command == "stop":
            return self.stop_daemon()
        if command == "reload":
            return self.daemon.send(signal.SIGHUP)
        if command == "status":
            return "ok" if self.daemon.pid is not None else "error: libvirtd has ended"
        return f"error: no such command: {command}"

    def serve(self) -> None:
        while True:
            happened = self.wait()
            if "owner" in happened:
                return
            if "command" in happened:
                # The owner waits for each answer, so one read is one line.
                command = os.read(0, 4096).decode()
                if not command:
                    return
                say(self.answer(command.strip()))


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def leave_nothing(root: str) -> None:
    """Kill all that runs in this PID namespace, then remove the host's directory."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        os.kill(-1, signal.SIGKILL)
        while True:
            os.wait()
    except (ProcessLookupError, ChildProcessError):
        pass
    shutil.rmtree(root, ignore_errors=True)


def main() -> None:
    spec = json.loads(sys.argv[1])
    try:
        become_host(spec["hostname"], spec["binds"])
        say("ok")
        Supervisor(Daemon(spec["command"], spec["log"], spec["environment"]), spec["owner_pidfd"]).serve()
    except OSError as error:
        say(f"error: {error}")
    finally:
        leave_nothing(spec["root"])


if __name__ == "__main__":
    main()
