# SPDX-License-Identifier: LGPL-2.1-or-later
"""What hooks/qemu asks Python to decide: refuse a start, or retarget a device on arrival.

Runs as root within libvirtd's call, with the guest locked: it never calls
libvirt, never waits, and whatever goes wrong is one line in syslog and exit 0.
The XML that it is given at `migrate` and `restore` holds secrets: it is never logged.
"""

import contextlib
import os
import syslog
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from virtrng import config, kernel, status
from virtrng.config import Config
from virtrng.domain import facts, policy, transform, xml
from virtrng.domain.facts import Facts

REFUSE = 3
PASS = 0

# A prepare that follows the arrival of a guest comes within moments; a mark that
# is older belongs to an arrival that failed.
MARK_LIFETIME_S = 60.0
# A feeder that starts with the host has this long to give its first seed.
BOOT_GRACE_S = 120.0


def main(arguments: Sequence[str], config_file: str) -> int:
    """Answer one call, `arguments` being NAME OPERATION SUB-OPERATION EXTRA; return PASS or REFUSE."""
    operation = arguments[1] if len(arguments) > 1 else ""
    try:
        answer = _OPERATIONS.get(operation)
        return PASS if answer is None else answer(_read_stdin(), _load(config_file))
    except BaseException as error:  # noqa: BLE001  nothing of ours may stop a guest
        _log(syslog.LOG_ERR, f"{operation}: {type(error).__name__}: {error}; this call changes nothing")
        return PASS


def _load(config_file: str) -> Config:
    path = Path(config_file)
    return config.load(path) if path.exists() else Config()


def _read_stdin() -> bytes:
    with open(0, "rb", closefd=False) as file:
        return file.read()


def _arrive(content: bytes, settings: Config) -> int:
    """migrate, restore: bring our device's source and rate to this host's policy."""
    root = xml.parse(content)
    if _names_require(settings):
        try:
            leave_mark(settings.paths.run_dir, facts.of(root).uuid)
        except (OSError, ValueError) as error:
            _log(syslog.LOG_ERR, f"no mark could be left: {error}; its prepare will look like a fresh start")
    if transform.retargeted(root, settings.domains):
        with open(1, "wb", closefd=False) as file:
            file.write(xml.serialise(root))
    return PASS


def _release(content: bytes, settings: Config) -> int:
    """release, from snapshot: the prepare that follows is no fresh start."""
    leave_mark(settings.paths.run_dir, facts.of(xml.parse(content)).uuid)
    return PASS


def _prepare(content: bytes, settings: Config) -> int:
    """Refuse a fresh start that policy forbids."""
    guest = facts.of(xml.parse(content))
    requirement = policy.requirement(guest, settings.domains)
    arrived = take_mark(
        settings.paths.run_dir, guest.uuid
    )  # whatever is required of it: it is for this start
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


def _missing(guest: Facts, settings: Config) -> str | None:
    """Say what policy asks for and the guest or the host does not have."""
    if not any(device.virtio for device in guest.rngs):
        return (
            f"{guest.name} has no virtio-rng, and this host's policy requires one: "
            f"run 'virtrng enable {guest.name}' and start it again "
            f"(a saved image without the device: 'virsh managedsave-remove {guest.name}')"
        )
    if settings.domains.require_feeder:
        return _stale(settings)
    return None


def _stale(settings: Config) -> str | None:
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


def _mark(run_dir: Path, guest_uuid: str) -> Path:
    # Parsed and printed again: nothing that a definition says becomes a path.
    return Path(f"{run_dir}-hook") / str(uuid.UUID(guest_uuid))


def leave_mark(run_dir: Path, guest_uuid: str) -> None:
    """Note that the next prepare of this guest is an arrival, not a fresh start."""
    mark = _mark(run_dir, guest_uuid)
    mark.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(f"{kernel.boottime_s():.3f}\n")


def take_mark(run_dir: Path, guest_uuid: str) -> bool:
    """Remove the mark of a guest; return whether it was there and fresh."""
    mark = _mark(run_dir, guest_uuid)
    try:
        fd = os.open(mark, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    with os.fdopen(fd, "rb") as file:
        text = file.read(64)
    with contextlib.suppress(OSError):
        mark.unlink()
    try:
        return 0.0 <= kernel.boottime_s() - float(text) <= MARK_LIFETIME_S
    except ValueError:
        return False


def _log(priority: int, text: str) -> None:
    syslog.openlog("virtrng", 0, syslog.LOG_DAEMON)
    syslog.syslog(priority, f"hook: {text}")


_OPERATIONS: dict[str, Callable[[bytes, Config], int]] = {
    "prepare": _prepare,
    "release": _release,
    "migrate": _arrive,
    "restore": _arrive,
}
