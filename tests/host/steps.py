# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the tests do to a booted host, and what they read of it."""

import json
import re
import shlex
from collections.abc import Callable
from typing import Any

from tests.host.machine import COMMAND_S, TREE, BootedHost
from tests.lab.host import wait_for
from tests.lab.images import LabError
from virtrng.sim.entropykey import SERIAL, master_key_card

KEY = f"entropykey:serial={SERIAL}"
# udev writes what it does not like in a name as "_".
SERIAL_BY_UDEV = SERIAL.replace("/", "_")
# About what two emulated processors make, check and test together.
SIMULATE = "--usbip 3240 --seed 40 --rate 2500 --long-term-key-file /root/key"
CARD = master_key_card(bytes(range(32)))  # as 'virtrng simulate' has it by default
FEEDER_JSON = "/run/virtrng/feeder.json"
# Emulation is slow. And what the filter of system calls refuses ends the process here, where it would get
# EPERM, so that nothing that it goes on without stays unseen.
DROP_IN = """
[Service]
SystemCallErrorNumber=
TimeoutStartSec=180
WatchdogSec=15
"""
NOT_HERE = ("make install", "virtrng keys", "virtrng hook", "virtrng status")
AS_NOBODY = "setpriv --reuid=nobody --regid=nogroup --clear-groups"


def readme_commands(heading: str) -> tuple[str, str]:
    """Return what README.md has one run under a heading: what makes files, and what starts a service."""
    text = (TREE / "README.md").read_text()
    found = re.search(rf"^{re.escape(heading)}\n+((?: {{4}}.*\n|\n)+)", text, re.MULTILINE)
    assert found, f"README.md has no commands under '{heading}'"
    lines = [line.removeprefix("    ") for line in found.group(1).splitlines()]
    ours = [line for line in lines if line and not line.startswith(NOT_HERE)]
    (start,) = (line for line in ours if line.startswith("systemctl"))
    assert ours[-1] == start
    return "\n".join(ours[:-1]), start


def write(host: BootedHost, path: str, text: str) -> None:
    """Make a file, and the directory for it."""
    host.run(f"mkdir -p $(dirname {path}) && printf %s {shlex.quote(text)} >{path}")


def plug(host: BootedHost) -> None:
    """Plug the key in; nothing where it is."""
    host.run("[ -e /sys/bus/usb/devices/1-1 ] || usbip attach --remote 127.0.0.1 --busid 1-1")
    host.wait_until("[ -e /sys/bus/usb/devices/1-1:1.0 ] && udevadm settle", "the key to be plugged in")


def unplug(host: BootedHost) -> None:
    """Unplug the key; nothing where it is not."""
    host.run("[ ! -e /sys/bus/usb/devices/1-1 ] || usbip detach --port 0")
    host.wait_until("[ ! -e /sys/bus/usb/devices/1-1 ] && udevadm settle", "the key to be gone")
    host.wait_until("usbip list --remote 127.0.0.1 | grep -q 20df:0001", "the key to be exported again")


def pair(host: BootedHost) -> None:
    """Pair the key, as its owner would; nothing where it is paired."""
    host.run(f"[ -e /etc/virtrng/keyring ] || echo {CARD} | virtrng keys pair")


def feeder(host: BootedHost) -> Any:
    """Return feeder.json as any user reads it."""
    return json.loads(host.run(f"{AS_NOBODY} cat {FEEDER_JSON}"))


def wait_for_feeder(host: BootedHost, reached: Callable[[Any], bool], what: str) -> Any:
    """Return feeder.json as soon as it says what is waited for."""

    def look() -> Any:
        read = host.try_run(f"systemctl is-active --quiet virtrng-feeder && cat {FEEDER_JSON}")
        found = json.loads(read.output) if read.status == 0 else None
        return found if found and reached(found) else None

    try:
        return wait_for(look, what, timeout_s=COMMAND_S, poll_s=0.2)
    except LabError as error:
        raise LabError(f"{error}\n{host.journal()}") from error


def wait_for_seeds(host: BootedHost, count: int) -> None:
    """Wait until the feeder that runs has given so many seeds, and its key is OK."""
    wait_for_feeder(
        host,
        lambda now: now["kernel"]["seeds"] >= count and [key["state"] for key in now["keys"]] == ["ok"],
        f"{count} seeds",
    )


def wait_for_status_line(host: BootedHost, text: str) -> None:
    """Wait until 'systemctl status' shows it."""
    host.wait_until(
        f"systemctl status virtrng-feeder | grep -q -F {shlex.quote(text)}", f"'{text}' in 'systemctl status'"
    )


def shown(host: BootedHost, unit: str, *properties: str) -> list[str]:
    """Return the properties of a unit, in the order in which they are named."""
    printed = host.run(f"systemctl show --property={','.join(properties)} {unit}")
    values = dict(line.split("=", 1) for line in printed.splitlines())
    return [values[name] for name in properties]


def pids(host: BootedHost) -> tuple[int, int]:
    """Return the process ids of the one that reads keys and the one that seeds."""
    main, group = shown(host, "virtrng-feeder", "MainPID", "ControlGroup")
    both = {int(pid) for pid in host.run(f"cat /sys/fs/cgroup{group}/cgroup.procs").split()}
    (injector,) = both - {int(main)}
    return int(main), injector
