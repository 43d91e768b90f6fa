# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng status`: what feeds the pool, when it last did, and what the guests have."""

import argparse
import contextlib
import dataclasses
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from virtrng import config, files, kernel, status
from virtrng.cli import output
from virtrng.domain.rng import RngDevice
from virtrng.errors import ExitCode, NoSuchDomain, VirtrngError
from virtrng.status import FeederStatus, KeyStatus

if TYPE_CHECKING:
    from virtrng.domain.hypervisor import Guest

ZERO_CELSIUS_K = 273.15
TELEMETRY_WIDTH = 90
NO_BREAK = "\N{NO-BREAK SPACE}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Look at everything, change nothing."""
    settings = config.load(arguments.config_file)
    run_dir = settings.paths.run_dir
    feeder = status.read(run_dir)
    holder = _holder(run_dir, feeder)
    guests, trouble = _guests(arguments.connect)
    if arguments.json:
        output.document(_document(holder, feeder, guests, trouble))
        return ExitCode.DONE
    stale_s = settings.feeder.stale_seed_s
    for name, text in (
        ("fed", _fed(holder, feeder, stale_s)),
        ("feeder", _feeder(holder, feeder)),
        *_keys(holder, feeder),
        ("pool", _pool()),
    ):
        output.line(f"{name:<8}{text}")
    _print_guests(guests, trouble)
    return ExitCode.DONE


def _holder(run_dir: Path, feeder: FeederStatus | None) -> str | None:
    """Name the feeder that runs; another user than its own can only see whether its process is there."""
    try:
        return files.holder(run_dir / status.LOCK_NAME)
    except PermissionError:
        alive = feeder is not None and Path("/proc", str(feeder.pid)).exists()
        return f"virtrng feed (pid {feeder.pid})" if feeder and alive else None


def _fed(holder: str | None, feeder: FeederStatus | None, stale_s: float) -> str:
    """Answer the first question in one line."""
    age_s = feeder.seed_age_s(kernel.boottime_s()) if feeder else None
    if holder is None or feeder is None:
        return "no: no feeder runs" + ("" if age_s is None else f"; the last seed is {_duration(age_s)} old")
    if age_s is None:
        return "not yet: no seed was given since the feeder started"
    if age_s > stale_s:
        return f"no: the last seed is {_duration(age_s)} old"
    if feeder.kernel.seeded_bits == 0:
        return f"only by a simulated key, with a credit of 0; last seed {_duration(age_s)} ago"
    return f"yes, from a hardware key; last seed {_duration(age_s)} ago"


def _feeder(holder: str | None, feeder: FeederStatus | None) -> str:
    if holder is None:
        return "not running ('virtrng feed')"
    if feeder is None:
        return f"{holder}; it has written no status"
    pool = feeder.kernel
    return (
        f"{holder}: {_plural(pool.seeds, 'seed')}, {_plural(pool.seeded_bits, 'bit')} credited, "
        f"made of {_plural(pool.bytes_passed, 'tested byte')}"
    )


def _keys(holder: str | None, feeder: FeederStatus | None) -> list[tuple[str, str]]:
    if feeder is None or (holder is None and not feeder.keys):
        return []
    if not feeder.keys:
        return [("key", f"none; the feeder waits: {feeder.waiting or 'it has just started'}")]
    return [line for key in feeder.keys for line in (("key", _key(key)), *_telemetry(key))]


def _key(key: KeyStatus) -> str:
    simulated = " (simulated by virtrng)" if key.simulated else ""
    fault = f"; last fault: {key.last_fault}" if key.last_fault else ""
    return (
        f"{key.kind}:serial={key.serial}{simulated}: {key.state}, {_plural(key.bytes_read, 'byte')} read, "
        f"{_plural(key.blocks_tested, 'block')} tested, {key.blocks_failed} failed, "
        f"{_plural(key.frames_bad, 'bad frame')}{fault}"
    )


def _telemetry(key: KeyStatus) -> Iterator[tuple[str, str]]:
    """Say what the key says of itself, in lines that hang below its own."""
    said = [key.verdict] if key.verdict else []
    said += [_figure(name, value) for name, value in key.telemetry.items()]
    if not said:
        return
    lead = "it was last heard to say" if key.state == "absent" else "it says of itself"
    text = f"{lead}: {', '.join(one.replace(' ', NO_BREAK) for one in said)}"
    for line in textwrap.wrap(text, TELEMETRY_WIDTH):
        yield "", line.replace(NO_BREAK, " ")


def _figure(name: str, value: float) -> str:
    """Write a figure of Telemetry.figures: its name ends with the unit."""
    if name.endswith("_k"):
        words, text = name.removesuffix("_k"), f"{value - ZERO_CELSIUS_K:.1f} °C"
    elif name.endswith("_v"):
        words, text = name.removesuffix("_v"), f"{value:.3f} V"
    else:
        words, text = name, f"{value:,}"
        for unit, short in (("_shannons_per_byte", " Sh/byte"), ("_per_s", "/s")):
            if name.endswith(unit):
                words, text = name.removesuffix(unit), f"{value:.2f}{short}"
    return f"{words.replace('_', ' ').replace('fips', 'FIPS').replace(' xor', ' XOR')} {text}"


def _pool() -> str:
    return (
        "the kernel's generator is ready"
        if kernel.crng_ready()
        else "the kernel's generator is not ready yet"
    )


def _guests(uri: str | None) -> tuple[list[dict[str, object]], VirtrngError | None]:
    """Return what each guest has, or why libvirt could not be asked."""
    from virtrng.domain.hypervisor import Hypervisor

    found: list[dict[str, object]] = []
    try:
        with Hypervisor(uri, readonly=True) as hypervisor:
            for guest in hypervisor.guests():
                with contextlib.suppress(NoSuchDomain):  # it has gone since it was listed
                    found.append(_guest(guest))
    except VirtrngError as error:
        return found, error
    return found, None


def _guest(guest: "Guest") -> dict[str, object]:
    from virtrng.domain import facts, xml

    active = guest.active
    definition = facts.of(xml.parse(guest.definition()))
    running = facts.of(xml.parse(guest.running())) if active else None
    return {
        "name": guest.name,
        "uuid": guest.uuid,
        "running": active,
        "definition": [_device(device) for device in definition.rngs],
        "live": [_device(device) for device in running.rngs] if running else None,
        "wanted": definition.wish.wanted if definition.wish else None,
    }


def _device(device: RngDevice) -> dict[str, object]:
    return {
        "ours": device.ours,
        "model": device.model,
        "backend": device.backend,
        "source": device.source,
        "rate_bytes": device.rate.bytes if device.rate else None,
        "rate_period_ms": device.rate.period_ms if device.rate else None,
        "text": str(device),
    }


def _print_guests(guests: list[dict[str, object]], trouble: VirtrngError | None) -> None:
    if trouble:
        output.line(f"{'guests':<8}not known: {trouble}")
    elif not guests:
        output.line(f"{'guests':<8}none")
    else:
        output.line()
        rows = [
            (
                str(guest["name"]),
                "running" if guest["running"] else "off",
                _devices(guest["definition"]),
                _devices(guest["live"]) if guest["running"] else "",
                {None: "", True: "yes", False: "no"}[guest["wanted"]],  # type: ignore[index]
            )
            for guest in guests
        ]
        output.table(("GUEST", "STATE", "IN ITS DEFINITION", "WHILE IT RUNS", "WANTED"), rows)


def _devices(devices: object) -> str:
    assert isinstance(devices, list)  # noqa: S101  made above
    return "; ".join(f"{'ours' if one['ours'] else 'foreign'}: {one['text']}" for one in devices) or "none"


def _document(
    holder: str | None,
    feeder: FeederStatus | None,
    guests: list[dict[str, object]],
    trouble: VirtrngError | None,
) -> dict[str, object]:
    return {
        "feeder": {
            "running": holder is not None,
            "holder": holder,
            "last_seed_age_s": feeder.seed_age_s(kernel.boottime_s()) if feeder else None,
            "status": dataclasses.asdict(feeder) if feeder else None,
        },
        "pool": {"ready": kernel.crng_ready()},
        "guests": guests if trouble is None else None,
        "guests_error": str(trouble) if trouble else None,
    }


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _duration(seconds: float) -> str:
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= 2 * size:
            return _plural(int(seconds // size), name)
    return _plural(int(seconds), "second")
