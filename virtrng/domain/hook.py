# SPDX-License-Identifier: LGPL-2.1-or-later
"""What hooks/qemu asks Python to decide: refuse a start, or retarget a device on arrival.

Runs as root within libvirtd's call, with the guest locked: it never calls
libvirt, never waits, and whatever goes wrong is one line in syslog and exit 0.
The XML that it is given at `migrate` and `restore` holds secrets: it is never logged.

Each module that it imports is paid for at every start of a guest: lxml only where a definition
is changed, the feeder's status only where policy asks for it.
"""

import os
import stat
import syslog
from collections.abc import Callable, Sequence
from pathlib import Path

from virtrng import config
from virtrng.config import Config
from virtrng.domain import glance, marks, rules
from virtrng.domain.glance import Glance

PASS = 0
REFUSE = 3
# Something was printed, all of it: hooks/qemu hands it on.
ANSWER = 4

# A feeder that starts with the host has this long to give its first seed.
BOOT_GRACE_S = 120.0

# Far more than any definition (libvirt's clients send 4 MiB at most: VIR_NET_MESSAGE_STRING_MAX), and
# than any configuration: what is larger is no reason to keep libvirt waiting.
XML_BYTES_MAX = 16 * 2**20
CONFIG_BYTES_MAX = 2**20

# virQEMUDriverConfigNew, 9.0 and 11.3: where `virsh managedsave` of the system's libvirtd puts its images.
SAVED_IMAGES_DIR = "/var/lib/libvirt/qemu/save"


def main(arguments: Sequence[str], config_file: str) -> int:
    """Answer one call, of NAME OPERATION SUB-OPERATION EXTRA; return PASS, REFUSE or ANSWER."""
    operation = arguments[1] if len(arguments) > 1 else ""
    try:
        answer = _OPERATIONS.get(operation)
        return PASS if answer is None else answer(_read_stdin(), _load(config_file))
    except BaseException as error:  # noqa: BLE001  nothing of ours may stop a guest
        _log(syslog.LOG_ERR, f"{operation}: {type(error).__name__}: {error}; this call changes nothing")
        return PASS


def _load(config_file: str) -> Config:
    try:
        found = os.stat(config_file)
    except FileNotFoundError:
        return Config()
    if not stat.S_ISREG(found.st_mode):  # to open a FIFO would wait for its writer
        raise ValueError(f"{config_file} is not a regular file")
    if found.st_size > CONFIG_BYTES_MAX:
        raise ValueError(f"{config_file} is larger than {CONFIG_BYTES_MAX} bytes")
    return config.load(Path(config_file))


def _read_stdin() -> bytes:
    with open(0, "rb", closefd=False) as file:
        content = file.read(XML_BYTES_MAX + 1)
    if len(content) > XML_BYTES_MAX:
        raise ValueError(f"the definition is larger than {XML_BYTES_MAX} bytes")
    return content


def _arrive(content: bytes, settings: Config) -> int:
    """migrate, restore: bring our device's source and rate to this host's policy."""
    guest = glance.at(content)
    if _names_require(settings):
        try:
            marks.leave(settings.paths.run_dir, guest.uuid)
        except (OSError, ValueError) as error:
            _log(syslog.LOG_ERR, f"no mark could be left: {error}; its prepare will look like a fresh start")
    if not guest.models:
        return PASS
    from virtrng.domain import arrival, xml

    root = xml.parse(content)
    if not arrival.retarget(root, settings.domains):
        return PASS
    _print(xml.serialise(root, content))
    return ANSWER


def _print(answer: bytes) -> None:
    """Write all of it: what was written of an answer that fails is thrown away by hooks/qemu."""
    with open(1, "wb", closefd=False) as file:
        file.write(answer)


def _release(content: bytes, settings: Config) -> int:
    """release, from snapshot: the prepare that follows is no fresh start."""
    marks.leave(settings.paths.run_dir, glance.at(content).uuid)
    return PASS


def _prepare(content: bytes, settings: Config) -> int:
    """Refuse a fresh start that policy forbids."""
    guest = glance.at(content)
    # Taken whatever is required: it is for this start.
    arrived = marks.take(settings.paths.run_dir, guest.uuid)
    requirement = rules.requirement(guest.name, guest.uuid, guest.os, settings.domains)
    if arrived or requirement == "off":
        return PASS
    missing = _missing(guest, settings)
    if missing is None:
        return PASS
    if requirement == "warn":
        _log(syslog.LOG_WARNING, f"{guest.name}: {missing}")
        return PASS
    os.write(2, f"virtrng: {missing}\n".encode())
    _log(syslog.LOG_NOTICE, f"start of {guest.name} refused: {missing}")
    return REFUSE


def _missing(guest: Glance, settings: Config) -> str | None:
    """Say what policy asks for and the guest or the host does not have."""
    if not guest.virtio:
        return (
            f"{guest.name} has no virtio-rng, and this host's policy requires one: {_remedy(guest.name)}"
            " (if it was defined just now, the watcher may have given it one since: start it again,"
            " or define it through 'virtrng xml')"
        )
    if settings.domains.require_feeder:
        return _stale(settings)
    return None


def _remedy(name: str) -> str:
    """Say what gives the guest its device; a saved image would bring it back without."""
    enable = f"run 'virtrng enable {name}'"
    if "/" not in name and os.path.exists(f"{SAVED_IMAGES_DIR}/{name}.save"):
        return f"{enable} and 'virsh managedsave-remove {name}', since its saved image has none, and start it"
    return f"{enable} and start it again"


def _stale(settings: Config) -> str | None:
    from virtrng import kernel, status

    limit_s = settings.feeder.stale_seed_s
    now_s = kernel.boottime_s()
    feeder = status.read(settings.paths.run_dir)
    age_s = feeder.seed_age_s(now_s) if feeder else None
    if age_s is not None and age_s <= limit_s:
        return None
    said = "no seed was given since boot" if age_s is None else f"the last seed is {age_s:.0f} s old"
    if now_s < BOOT_GRACE_S:
        _log(syslog.LOG_WARNING, f"{said}; the host has just started, so it is let pass")
        return None
    return f"{said}, and this host's policy requires a feeding key: see 'virtrng status'"


def _names_require(settings: Config) -> bool:
    domains = settings.domains
    return domains.require != "off" or any(rule.require for rule in domains.rules)


def _log(priority: int, text: str) -> None:
    syslog.openlog("virtrng", 0, syslog.LOG_DAEMON)
    syslog.syslog(priority, f"hook: {text}")


_OPERATIONS: dict[str, Callable[[bytes, Config], int]] = {
    "prepare": _prepare,
    "release": _release,
    "migrate": _arrive,
    "restore": _arrive,
}
