# SPDX-License-Identifier: LGPL-2.1-or-later
"""The two-second guest: its definition, and a handle that boots it, talks to it and moves it.

The only way in is the serial console, a unix socket of QEMU's at a path that is the same inside every host,
so that the definition stays valid across restart, save, restore and migration. Each command connects anew.
QEMU itself keeps the log of all that the guest ever said. The protocol is described in guest-init.
"""

import base64
import itertools
import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypedDict, Unpack
from xml.sax.saxutils import escape, quoteattr

from tests.lab.host import CONSOLE_LOG_DIR, SERIAL_DIR, LabHost, wait_for
from tests.lab.images import GuestImage, LabError

BOOT_S = 60.0  # 2 s on an idle machine with 2 cores, under emulation
COMMAND_S = 30.0
KILLED_STATUS = 128 + 9
REQUEST_MAX_BYTES = 4095  # n_tty(4) in line mode drops the rest
GAVE_UP = ("GUEST STOPPED:", "Kernel panic")
_tokens = itertools.count()

# quiet: what the kernel says there, short of a panic, would break the protocol; dmesg has it all.
CMDLINE = "console=ttyS0 quiet loglevel=1"
DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  {uuid}
  {metadata}
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>{vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine={machine}>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{cmdline}</cmdline>
  </os>
  {features}
  <devices>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <serial type='unix'>
      <source mode='bind' path={serial}/>
      <log file={log} append='on'/>
    </serial>
    {devices}
  </devices>
</domain>
"""
READER_REPORT = """
read -r now idle </proc/uptime
awk -v now="$now" '$2 == 0 { failures++; next }
    { if (reads && $1 - last > gap) gap = $1 - last; last = $1; reads++; bytes += $2 }
    END { if (!reads || now - last > gap) gap = now - last
          print reads + 0, bytes + 0, failures + 0, gap + 0 }
' /tmp/hwrng-reader.log"""


class DomainOptions(TypedDict, total=False):
    """What domain_xml() takes besides name and image."""

    machine: str
    memory_mib: int
    vcpus: int
    uuid: str | None
    acpi: bool
    root_ports: int
    extra_devices: str
    metadata: str
    extra_cmdline: str


@dataclass(frozen=True, slots=True)
class CommandResult:
    """What a command in the guest printed on stdout and stderr, and its exit status."""

    output: str
    status: int


@dataclass(frozen=True, slots=True)
class ReaderReport:
    """What the loop over /dev/hwrng got so far; the gap is guest uptime without a successful read."""

    reads: int
    read_bytes: int
    failures: int
    longest_gap_s: float


def domain_xml(
    name: str,
    *,
    image: GuestImage,
    machine: str = "q35",
    memory_mib: int = 192,
    vcpus: int = 1,
    uuid: str | None = None,
    acpi: bool = True,
    root_ports: int = 1,
    extra_devices: str = "",
    metadata: str = "",
    extra_cmdline: str = "",
) -> str:
    """Return the definition of a guest that has no rng, unless 'extra_devices' gives it one.

    On q35, 'root_ports' pcie-root-ports stand free: one is what libvirt gives to a guest with more devices.
    """
    port_numbers = range(1, root_ports + 1) if "q35" in machine else ()
    ports = "".join(f"<controller type='pci' index='{n}' model='pcie-root-port'/>" for n in port_numbers)
    return DOMAIN.format(
        name=escape(name),
        uuid=f"<uuid>{uuid}</uuid>" if uuid else "",
        metadata=f"<metadata>{metadata}</metadata>" if metadata else "",
        memory_mib=memory_mib,
        vcpus=vcpus,
        machine=quoteattr(machine),
        kernel=escape(str(image.kernel)),
        initrd=escape(str(image.initrd)),
        cmdline=escape(f"{CMDLINE} {extra_cmdline}".strip()),
        features="<features><acpi/></features>" if acpi else "",
        devices=ports + extra_devices,
        serial=quoteattr(f"{SERIAL_DIR}/{name}"),
        log=quoteattr(f"{CONSOLE_LOG_DIR}/{name}.log"),
    )


class LabGuest:
    """A guest on a lab host, by name."""

    def __init__(self, host: LabHost, name: str) -> None:
        self.host = host
        self.name = name
        self._hosts = [host]

    @classmethod
    def define(cls, host: LabHost, name: str, *, image: GuestImage, **options: Unpack[DomainOptions]) -> Self:
        """Define a two-second guest on a host."""
        host.virsh("define", "/dev/stdin", stdin=domain_xml(name, image=image, **options))
        return cls(host, name)

    def boot(self, *, timeout_s: float = BOOT_S) -> float:
        """Start the guest, wait until it takes commands, and return its uptime in s at that moment."""
        mark = self.console_mark()
        self.host.virsh("start", self.name)
        return self.wait_booted(mark, timeout_s=timeout_s)

    def console_mark(self) -> int:
        """Return a place in the console's log: what comes later comes after it."""
        log = self._console_log(self.host)
        return log.stat().st_size if log.exists() else 0

    def wait_booted(self, mark: int = 0, *, timeout_s: float = BOOT_S) -> float:
        """Wait until the guest says, after 'mark', that it has booted; return its uptime in s then."""

        def booted() -> re.Match[str] | None:
            said = self._said_since(mark)
            if any(sign in said for sign in GAVE_UP):
                raise LabError(f"guest {self.name} gave up booting:\n{said}")
            return re.search(r"^BOOTED (\S+)\n", said, re.MULTILINE)

        try:
            found = wait_for(booted, f"guest {self.name} to boot", timeout_s=timeout_s)
        except LabError as error:
            raise LabError(f"{error}\nconsole: {self._said_since(mark)!r}\nstate: {self.state()}") from error
        assert found is not None
        return float(found.group(1))

    def run(self, command: str, timeout_s: float = COMMAND_S) -> str:
        """Return what a shell command in the guest printed; raise LabError if it failed."""
        done = self.try_run(command, timeout_s)
        if done.status:
            raise LabError(f"in guest {self.name}: '{command}' ended with {done.status}: {done.output}")
        return done.output

    def try_run(self, command: str, timeout_s: float = COMMAND_S) -> CommandResult:
        """Return what a shell command in the guest printed, and its status; raise LabError if it hangs.

        The guest kills it after 'timeout_s' and goes on. Text only; a command that is to stay ('&') must
        redirect its output. One command at a time: a second caller waits for the first.
        """
        token = f"{next(_tokens)}"
        request = f"{token} {int(timeout_s) or 1} {base64.b64encode(command.encode()).decode()}\n".encode()
        if len(request) > REQUEST_MAX_BYTES:
            raise LabError(f"a command of {len(command)} characters is too long for the console")
        # The guest's clock may run slower than ours when the machine is busy.
        answer = self._converse(request, f"@@{token}", deadline=time.monotonic() + 2 * timeout_s + 10)
        if answer.status == KILLED_STATUS:
            raise LabError(f"in guest {self.name}: '{command}' was still running after {timeout_s:g} s")
        return answer

    def console_text(self) -> str:
        """Return all that the guest ever said, on every host it has been on."""
        logs = (self._console_log(host) for host in dict.fromkeys(self._hosts))
        return "".join(log.read_text(errors="replace") for log in logs if log.exists())

    def state(self) -> str:
        """Return libvirt's word for the guest's state: 'running', 'shut off', …"""
        return self.host.virsh("domstate", self.name)

    def wait_state(self, state: str, *, timeout_s: float = 30) -> None:
        """Wait until the guest is in a state, in libvirt's words."""
        wait_for(lambda: self.state() == state, f"guest {self.name} to be {state}", timeout_s=timeout_s)

    def migrate(self, to: LabHost) -> None:
        """Move the running guest, its definition too; the handle goes with it."""
        where = ("--migrateuri", "tcp://127.0.0.1", "--listen-address", "127.0.0.1")
        self.host.virsh("migrate", "--live", "--persistent", *where, self.name, to.uri)
        self.host = to
        self._hosts.append(to)

    def start_reader(self) -> None:
        """Have the guest read /dev/hwrng over and over, until stop_reader()."""
        self.run("hwrng-reader >/dev/null 2>&1 & echo $! >/tmp/hwrng-reader.pid")

    def reader_report(self) -> ReaderReport:
        """Return what the loop over /dev/hwrng has done since start_reader()."""
        reads, read_bytes, failures, gap = self.run(READER_REPORT).split()
        return ReaderReport(int(reads), int(read_bytes), int(failures), float(gap))

    def stop_reader(self) -> ReaderReport:
        """End the loop over /dev/hwrng, and return what it has done."""
        report = self.reader_report()
        self.run("kill $(cat /tmp/hwrng-reader.pid)")
        return report

    def crng_ready_s(self) -> float | None:
        """Return the guest's uptime in s when its kernel said 'crng init done'; None if it has not."""
        found = re.search(r"\[ *([0-9.]+)\] random: crng init done", self.run("dmesg"))
        return float(found.group(1)) if found else None

    def remove(self) -> None:
        """Destroy and undefine the guest wherever it has been; harmless when it is gone."""
        for host in dict.fromkeys(self._hosts):
            if self.name in host.virsh("list", "--name").split():
                with suppress(LabError):  # it may have ended by itself just now
                    host.virsh("destroy", self.name)
            if self.name in host.virsh("list", "--all", "--name").split():
                host.virsh("undefine", self.name, "--managed-save", "--snapshots-metadata")

    def _console_log(self, host: LabHost) -> Path:
        return host.outside(f"{CONSOLE_LOG_DIR}/{self.name}.log")

    def _said_since(self, mark: int) -> str:
        log = self._console_log(self.host)
        return log.read_bytes()[mark:].decode(errors="replace") if log.exists() else ""

    def _converse(self, request: bytes, marker: str, *, deadline: float) -> CommandResult:
        whole = re.compile(rf"{marker} begin\n(.*)\n{marker} end (\d+)\n".encode(), re.DOTALL)
        said = b""
        with self._connected(deadline) as console:
            console.sendall(request)
            while not (found := whole.search(said)):
                console.settimeout(max(deadline - time.monotonic(), 0.001))
                try:
                    chunk = console.recv(65536)
                except TimeoutError:
                    raise LabError(f"guest {self.name} does not answer; it said {said!r}") from None
                if not chunk:
                    raise LabError(f"guest {self.name} has closed its console; it said {said!r}")
                said += chunk
        # The newline before the end marker is the protocol's, the one before that the command's.
        return CommandResult(found.group(1).decode(errors="replace").removesuffix("\n"), int(found.group(2)))

    def _connected(self, deadline: float) -> socket.socket:
        console = socket.socket(socket.AF_UNIX)
        console.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            console.connect(str(self.host.outside(f"{SERIAL_DIR}/{self.name}")))
        except OSError as error:
            console.close()
            raise LabError(f"guest {self.name} has no console: {error}") from error
        return console
