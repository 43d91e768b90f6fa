# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests of a booted host, as virsh makes them and shows them, and what the watcher says of them.

None of them ever runs a program: they are defined, or started paused.
"""

import json
import shlex
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

from tests.host import steps
from tests.host.machine import COMMAND_S, BootedHost
from tests.lab.host import wait_for
from tests.lab.images import LabError

ALIAS = "ua-virtrng0"
WATCH = "virtrng-watch"
WATCH_JSON = "/run/virtrng-watch/watch.json"
CONFIG = "/etc/virtrng/virtrng.toml"
SOCKETS = "libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket"


def define(host: BootedHost, name: str) -> None:
    """Define a guest without a random number device."""
    host.run(f"printf %s {shlex.quote(_definition(name))} | virsh --quiet define /dev/stdin")


def create_paused(host: BootedHost, name: str) -> None:
    """Start a guest that has no definition, and no random number device; its processor stands still."""
    host.run(f"printf %s {shlex.quote(_definition(name))} | virsh --quiet create --paused /dev/stdin")


def _definition(name: str) -> str:
    return (
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory>"
        "<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
    )


def aliases(host: BootedHost, name: str, which: str = "--inactive") -> list[str]:
    """Return the aliases of the guest's random number devices, in its definition or as it runs ("")."""
    return _aliases(ET.fromstring(host.run(f"virsh dumpxml {which} {name}")))


def all_aliases(host: BootedHost) -> dict[str, list[str]]:
    """Return the same of the definitions of all guests, by name."""
    names = host.run("virsh list --all --name").split()
    shown = host.run(f"virsh '{'; '.join(f'dumpxml --inactive {name}' for name in names)}'")
    return {one.findtext("name", ""): _aliases(one) for one in ET.fromstring(f"<all>{shown}</all>")}


def _aliases(domain: ET.Element) -> list[str]:
    """An rng without an alias counts too, as ""."""
    found = (rng.find("alias") for rng in domain.iterfind("devices/rng"))
    return ["" if alias is None else alias.get("name", "") for alias in found]


def wait_for_device(host: BootedHost, name: str, which: str = "--inactive") -> None:
    """Wait until the guest has our device, and assert that it has that alone."""
    host.wait_until(f"virsh dumpxml {which} {name} | grep -q {ALIAS}", f"{name} to have its device")
    assert aliases(host, name, which) == [ALIAS]


def status(host: BootedHost, name: str) -> Any:
    """Return what 'virtrng status' says of a guest."""
    (found,) = (one for one in json.loads(host.run("virtrng status --json"))["guests"] if one["name"] == name)
    return found


def watch_json(host: BootedHost) -> Any:
    """Return watch.json as any user reads it."""
    return json.loads(host.run(f"{steps.AS_NOBODY} cat {WATCH_JSON}"))


def wait_for_watcher(host: BootedHost, reached: Callable[[Any], bool], what: str) -> Any:
    """Return watch.json as soon as the watcher that runs says in it what is waited for."""

    def look() -> Any:
        read = host.try_run(f"cat {WATCH_JSON} && systemctl show --value -p MainPID {WATCH}")
        if read.status:
            return None
        written, pid = read.output.splitlines()
        found = json.loads(written)
        return found if found["pid"] == int(pid) and reached(found) else None

    try:
        return wait_for(look, what, timeout_s=COMMAND_S, poll_s=0.2)
    except LabError as error:
        raise LabError(f"{error}\n{host.journal()}") from error


def wait_until_it_watches(host: BootedHost) -> None:
    """Wait until the watcher hears of guests, and has looked at all that there are."""
    wait_for_watcher(host, lambda now: now["waiting"] is None and now["last_pass_boottime_s"], "the watcher")


def main_pid(host: BootedHost) -> int:
    """Return the process id of the watcher."""
    (pid,) = steps.shown(host, WATCH, "MainPID")
    return int(pid)


def stop_libvirtd(host: BootedHost) -> None:
    """Stop libvirtd, and what would start it as soon as somebody asks for it."""
    host.run(f"systemctl stop {SOCKETS} libvirtd.service")
