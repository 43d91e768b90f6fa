# SPDX-License-Identifier: LGPL-2.1-or-later
"""A booted Debian with this tree installed in it, and a handle that runs commands there as root."""

import base64
import itertools
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.host.image import HostImage, host_image
from tests.lab.images import LabError

TREE = Path(__file__).resolve().parents[2]
# What `make install` is made of.
INSTALLED = (".ci", "Makefile", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "docs", "hooks",
             "templates", "virtrng")  # fmt: skip
BOOT_S = 240.0  # 12 s on an idle machine with two cores, under emulation
COMMAND_S = 120
ANSWER_S = 30.0  # beyond what the command itself may take
MEMORY_MIB = 768
HOST_UUID = "6ea8f1bf-4ba6-4f3b-9a4c-2f3f6d7c1c5e"
_tokens = itertools.count()


@dataclass(frozen=True, slots=True)
class Result:
    """What a command printed, stdout and stderr, and its exit status."""

    status: int
    output: str


class BootedHost:
    """QEMU from the beginning of the block to its end; what the host writes is thrown away with it."""

    def __init__(self, work: Path) -> None:
        """`work` is a directory for sockets and logs."""
        self.console = work / "console"
        self._work = work
        self._image = host_image()
        self._socket = socket.socket(socket.AF_UNIX)

    def __enter__(self) -> Self:
        installed = install(self._work)
        where = self._work / "channel"
        with (self._work / "qemu").open("w") as log:
            self._qemu = subprocess.Popen(
                ["setpriv", "--pdeathsig=KILL", *_qemu(self._image, installed, where, self.console)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._connect(where)
            self._channel = self._socket.makefile("rw", encoding="ascii")
            self._socket.settimeout(BOOT_S)
            if self._read() != "booted":
                raise LabError("the host speaks before it has booted")
            self.run("tar -xf /dev/vdb -C /")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._qemu.kill()
        self._qemu.wait()
        self._socket.close()

    def run(self, command: str, *, limit_s: int = COMMAND_S) -> str:
        """Return what a shell command printed; LabError if it fails."""
        done = self.try_run(command, limit_s=limit_s)
        if done.status:
            raise LabError(f"'{command}' failed with {done.status}: {done.output}\n{self.journal()}")
        return done.output

    def try_run(self, command: str, *, limit_s: int = COMMAND_S) -> Result:
        """Run a shell command, which may fail, and is killed after `limit_s` (status 137)."""
        token = f"t{next(_tokens)}"
        self._socket.settimeout(limit_s + ANSWER_S)
        self._channel.write(f"{token} {limit_s} {base64.b64encode(command.encode()).decode()}\n")
        self._channel.flush()
        answered, status, *printed = self._read().split(" ")
        if answered != token:
            raise LabError(f"the host answers {answered} where {token} was asked")
        return Result(int(status), base64.b64decode("".join(printed)).decode(errors="replace").strip("\n"))

    def wait_until(self, condition: str, what: str, *, limit_s: int = COMMAND_S) -> None:
        """Wait for a shell command to succeed."""
        done = self.try_run(f"until {condition}; do sleep 0.5; done", limit_s=limit_s)
        if done.status:
            last = self.try_run(condition).output
            raise LabError(f"waited {limit_s} s in vain for {what}: {done.output} {last}\n{self.journal()}")

    def journal(self) -> str:
        """Return the end of the journal."""
        return self.try_run("journalctl --no-pager -n 40 -o short-monotonic").output

    def _connect(self, where: Path) -> None:
        deadline = time.monotonic() + BOOT_S
        while True:
            try:
                return self._socket.connect(str(where))
            except OSError as error:
                if self._qemu.poll() is not None or time.monotonic() > deadline:
                    raise LabError(f"no QEMU: {(self._work / 'qemu').read_text()}") from error
                time.sleep(0.05)

    def _read(self) -> str:
        try:
            line = self._channel.readline()
        except TimeoutError:
            line = ""
        if not line:
            raise LabError(f"the host is silent; its console ends with: {self.console.read_text()[-2000:]}")
        return line.rstrip("\n")


def install(work: Path) -> Path:
    """Return an archive of what `make install` installs, in a copy so that it builds nothing in the tree."""
    source, target, archive = work / "source", work / "installed", work / "installed.tar"
    source.mkdir()
    for name in INSTALLED:
        copy = shutil.copytree if (TREE / name).is_dir() else shutil.copy
        copy(TREE / name, source / name)
    subprocess.run(
        ["make", "--silent", "install", f"DESTDIR={target}"],
        cwd=source,
        env=os.environ | {"PIP_NO_WARN_SCRIPT_LOCATION": "1"},
        capture_output=True,
        check=True,
    )
    subprocess.run(
        ["tar", "-C", str(target), "--owner=0", "--group=0", "-cf", str(archive), "usr"], check=True
    )
    return archive


def _qemu(image: HostImage, archive: Path, channel: Path, console: Path) -> list[str]:
    return [
        "qemu-system-x86_64", "-nodefaults", "-display", "none", "-no-reboot",
        # Without one in its firmware libvirtd takes another UUID for the host each time that it starts.
        "-uuid", HOST_UUID,
        "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", f"{MEMORY_MIB}",
        "-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", "console=ttyS0 quiet",
        "-drive", f"file={image.disk},format=raw,if=virtio,snapshot=on",
        "-drive", f"file={archive},format=raw,if=virtio,readonly=on",
        "-serial", f"file:{console}",
        "-device", "virtio-serial-pci", "-device", "virtserialport,chardev=tests,name=tests",
        # What the host says before somebody listens would be lost.
        "-chardev", f"socket,id=tests,path={channel},server=on,wait=on",
        "-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng",
    ]  # fmt: skip
