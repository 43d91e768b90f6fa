# SPDX-License-Identifier: LGPL-2.1-or-later
"""The product as its user runs it against a lab host, and what libvirt and the guest then show."""

import json
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab.guest import LabGuest
from tests.lab.host import LabHost, wait_for

TREE = Path(__file__).resolve().parents[2]
VIRTRNG = ("/usr/bin/python3", "-m", "virtrng")
# Whatever this machine's own configuration says.
NO_CONFIG = Path("/dev/null")
ALIAS = "ua-virtrng0"
WISH = "{urn:virtrng:domain:1}guest"
MORE_READS = 20
OURS = f"""\
<rng model='virtio'>
  <rate bytes='4096' period='1000'/>
  <backend model='random'>/dev/random</backend>
  <alias name='{ALIAS}'/>
</rng>"""
# As virt-install and virt-manager give it.
FOREIGN = "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"


@dataclass(frozen=True, slots=True)
class Said:
    """What a run of virtrng gave."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Its stdout as JSON."""
        return json.loads(self.out)


@dataclass(frozen=True, slots=True)
class Rng:
    """An <rng> as libvirt shows it; the rate in bytes and ms."""

    alias: str
    source: str
    rate: tuple[int, int] | None
    bus: int
    slot: int


def command(host: LabHost, *arguments: str, config: Path = NO_CONFIG) -> list[str]:
    """Return the command line of virtrng against a host; to be run in the tree."""
    return [*VIRTRNG, "--config-file", str(config), "-c", host.uri, *arguments]


def virtrng(host: LabHost, *arguments: str, config: Path = NO_CONFIG, stdin: str = "") -> Said:
    """Run virtrng against a host."""
    line = command(host, *arguments, config=config)
    done = subprocess.run(line, cwd=TREE, input=stdin, capture_output=True, text=True, timeout=120)
    return Said(done.returncode, done.stdout, done.stderr)


def definition(guest: LabGuest) -> str:
    """Return the XML of the guest's next start."""
    return guest.host.virsh("dumpxml", "--inactive", guest.name)


def live(guest: LabGuest) -> str:
    """Return the XML of the guest as it runs."""
    return guest.host.virsh("dumpxml", guest.name)


def rngs(domain: str) -> list[Rng]:
    """Return the random number devices in a domain's XML."""
    return [_rng(element) for element in ET.fromstring(domain).iterfind("devices/rng")]


def wish(domain: str) -> dict[str, str] | None:
    """Return the attributes of our element in a domain's metadata."""
    element = ET.fromstring(domain).find(f"metadata/{WISH}")
    return None if element is None else dict(element.attrib)


def canonical(domain: str, *, with_wish: bool = True) -> str:
    """Return a domain's XML without what 'disable' need not restore.

    That is an empty <metadata/> and the order under <devices>; the wish too, unless it is asked for.
    """
    root = ET.fromstring(domain)
    metadata = root.find("metadata")
    if metadata is not None:
        for element in [] if with_wish else metadata.findall(WISH):
            metadata.remove(element)
        if not len(metadata):
            root.remove(metadata)
    devices = root.find("devices")
    assert devices is not None
    devices[:] = sorted(devices, key=_one)
    return _one(root)


def added_rng(diff: str) -> str:
    """Return the <rng> in the added lines of a unified diff, in a form that can be compared."""
    lines = [line[1:] for line in diff.splitlines() if line.startswith("+") and not line.startswith("+++")]
    text = "\n".join(lines)
    start, end = text.index("<rng"), text.index("</rng>") + len("</rng>")
    return _one(ET.fromstring(text[start:end]))


def first_rng(domain: str) -> str:
    """Return the first <rng> of a domain in the form of added_rng()."""
    element = ET.fromstring(domain).find("devices/rng")
    assert element is not None
    return _one(element)


def rng_current(guest: LabGuest) -> str:
    """Return which hardware random number generator the guest's kernel uses; 'none' without one."""
    return guest.run("cat /sys/class/misc/hw_random/rng_current")


def wait_for_rng(guest: LabGuest, name: str = "virtio_rng.0") -> None:
    """Wait until the guest's kernel uses a generator; '0' in its name counts from its boot."""
    wait_for(lambda: rng_current(guest) == name, f"{guest.name} to use {name}", timeout_s=30)


def read_hwrng(guest: LabGuest) -> int:
    """Have the guest read 64 bytes of /dev/hwrng; return how many came."""
    return int(guest.run("dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c"))


def wait_for_more_reads(guest: LabGuest) -> None:
    """Wait until the reader has got on, so that what is seen after an event is not from before it."""
    enough = guest.reader_report().reads + MORE_READS
    wait_for(lambda: guest.reader_report().reads >= enough, f"{MORE_READS} more reads", timeout_s=60)


def _rng(element: ET.Element) -> Rng:
    alias, rate, address = (element.find(tag) for tag in ("alias", "rate", "address"))
    return Rng(
        alias="" if alias is None else alias.get("name", ""),
        source=element.findtext("backend", ""),
        rate=None if rate is None else (int(rate.get("bytes", "")), int(rate.get("period", "1000"))),
        bus=-1 if address is None else int(address.get("bus", "-1"), 0),
        slot=-1 if address is None else int(address.get("slot", "-1"), 0),
    )


def _one(element: ET.Element) -> str:
    return ET.canonicalize(ET.tostring(element, encoding="unicode"), strip_text=True)
