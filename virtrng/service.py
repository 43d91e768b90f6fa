# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the service manager is told, and what it hands over. The only import of systemd.

Outside a service nothing of it does anything: there is no NOTIFY_SOCKET, no WATCHDOG_USEC, no LISTEN_FDS.
The variables stay in the environment. They name this process by its id, which executing itself anew keeps.
"""

import logging
import os
import socket

from systemd import daemon

log = logging.getLogger(__name__)

# The levels of syslog(3), which sd-daemon(3) takes as '<N>' before a line.
_PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
_DEBUG = 7


def ready() -> None:
    """Say that the service has started: units that are ordered after it may."""
    _notify("READY=1")


def stopping() -> None:
    """Say that the service is about to end."""
    _notify("STOPPING=1")


def alive() -> None:
    """Say that the service is well, to be said more often than every `watchdog_s()`."""
    _notify("WATCHDOG=1")


def says(text: str) -> None:
    """Have 'systemctl status' show this line."""
    _notify(f"STATUS={' '.join(text.split())}")


def watchdog_s() -> float | None:
    """Return after how many seconds without `alive()` the service is killed; None if it never is.

    Source: sd_watchdog_enabled(3).
    """
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    meant_for = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if meant_for != str(os.getpid()) or not microseconds.isdecimal() or not int(microseconds):
        return None
    return int(microseconds) / 1e6


def inherited(name: str) -> socket.socket | None:
    """Return the listening stream socket of that FileDescriptorName; None if none was handed over.

    To be asked once for each name: a second socket would share the descriptor of the first.
    """
    for fd, known_as in daemon.listen_fds_with_names(unset_environment=False).items():
        if known_as == name and daemon.is_socket(fd, type=socket.SOCK_STREAM, listening=1):
            return socket.socket(fileno=fd)
    return None


def log_with_priorities() -> None:
    """Have each line that is logged carry its priority, if stderr goes to the journal.

    Source: JOURNAL_STREAM in systemd.exec(5).
    """
    stderr = os.fstat(2)
    if os.environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(_WithPriority("%(message)s"))


class _WithPriority(logging.Formatter):
    """Marks each line: the journal makes an entry of every one."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), _DEBUG)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


def _notify(text: str) -> None:
    try:
        daemon.notify(text)
    except OSError as error:  # a service manager that does not listen keeps nothing from being fed
        log.debug("cannot tell the service manager %s: %s", text, error)
