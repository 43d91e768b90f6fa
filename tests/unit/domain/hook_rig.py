# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook, installed somewhere and called as libvirt calls it."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.unit.support import NOBODY, ROOT, is_root
from virtrng.domain import hookfile

UUID = "6695eb01-f6a4-8304-79aa-97f2502e193f"
OURS = """    <rng model='virtio'>
      <rate bytes='512' period='2000'/>
      <backend model='random'>/dev/urandom</backend>
      <alias name='ua-virtrng0'/>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x19' function='0x0'/>
    </rng>
"""
FOREIGN = """    <rng model='virtio'>
      <backend model='random'>/dev/hwrng</backend>
      <alias name='rng0'/>
    </rng>
"""


def domain(*devices: str, name: str = "web", uuid: str = UUID) -> bytes:
    """Return a definition as libvirt hands it to a hook, secrets included."""
    return f"""<domain type='kvm' id='3'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='KiB'>262144</memory>
  <os>
    <type arch='x86_64' machine='pc-q35-7.2'>hvm</type>
  </os>
  <devices>
    <graphics type='vnc' port='-1' passwd='hunter2'/>
{"".join(devices)}  </devices>
</domain>
""".encode()


WITHOUT, WITH, WITH_FOREIGN = domain(), domain(OURS), domain(FOREIGN)


@dataclass(frozen=True)
class Answer:
    """What libvirt gets."""

    code: int
    out: bytes
    err: str


PASSED = Answer(0, b"", "")


class Hook:
    """The hook in a hooks directory of its own below `base`, which every user can get to."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.config_file = base / "virtrng.toml"
        self.run_dir = base / "run"
        self.marks = base / "run-hook"
        self.file = self.install(ROOT)

    def install(self, package_dir: Path) -> Path:
        """Put it there, to run the package in that directory."""
        content = hookfile.rendered(ROOT / "hooks" / "qemu", package_dir, self.config_file)
        hookfile.install(self.base / "hooks", content)
        return hookfile.destination(self.base / "hooks")

    def install_copy(self) -> Path:
        """Put it there with a package of its own, readable by all; return that."""
        package_dir = self.base / "lib"
        shutil.copytree(
            ROOT / "virtrng", package_dir / "virtrng", ignore=shutil.ignore_patterns("__pycache__")
        )
        self.install(package_dir)
        return package_dir / "virtrng"

    def configure(self, text: str) -> None:
        """Write the configuration, with marks and status below `base`."""
        self.config_file.write_text(f"{text}\n[paths]\nrun_dir = '{self.run_dir}'\n")

    def call(
        self,
        operation: str,
        content: bytes = WITHOUT,
        *,
        sub: str = "begin",
        extra: str = "-",
        name: str = "web",
        nobody: bool = False,
    ) -> Answer:
        """Call it once: argv NAME OP SUBOP EXTRA, hardly an environment, the XML on stdin."""
        return self.call_with([name, operation, sub, extra], content, nobody=nobody)

    def call_with(self, arguments: Sequence[str | bytes], content: bytes, *, nobody: bool = False) -> Answer:
        """Call it once with any arguments."""
        run = subprocess.run(
            [str(self.file), *arguments],
            input=content,
            capture_output=True,
            cwd="/",
            env={"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            check=False,
            user=NOBODY if nobody and is_root() else None,
            group=NOBODY if nobody and is_root() else None,
            extra_groups=[] if nobody and is_root() else None,
        )
        return Answer(run.returncode, run.stdout, run.stderr.decode(errors="replace"))

    def call_with_closed(self, operation: str, redirections: str) -> Answer:
        """Call it with some of its descriptors closed."""
        run = subprocess.run(
            ["/bin/sh", "-c", f'exec "$0" web "$1" begin - {redirections}', str(self.file), operation],
            input=WITH, capture_output=True, cwd="/", env={"LC_ALL": "C", "PATH": os.defpath}, check=False,
        )  # fmt: skip
        return Answer(run.returncode, run.stdout, run.stderr.decode())

    def mark(self, uuid: str = UUID) -> Path:
        """Where the mark of a guest lies."""
        return self.marks / uuid
