# SPDX-License-Identifier: LGPL-2.1-or-later
"""lxml in several threads, beside a libvirt that reads XML in the same process: neither dies of the other."""

import subprocess
import sys
from pathlib import Path

from tests.unit.support import ROOT

NODE = "<node><domain type='test'><name>one</name><memory>8</memory><os><type>hvm</type></os></domain></node>"
# Without a lock it got no further than the fourth round.
CODE = """\
import sys
from concurrent.futures import ThreadPoolExecutor
from virtrng.domain import xml
from virtrng.domain.hypervisor import Hypervisor

document = b"<domain>%b</domain>" % (b"<a b='c'/>" * 1000)
with ThreadPoolExecutor(4) as pool:
    for number in range(20):
        assert all(len(root) == 1000 for root in pool.map(xml.parse, [document] * 100))
        assert all(len(root) == 1000 for root in pool.map(xml.read, [document.decode()] * 100))
        with Hypervisor(sys.argv[1]) as hypervisor:
            print(number, *(guest.name for guest in hypervisor.guests()))
"""


def test_libvirt_reads_files_after_threads_have_parsed(tmp_path: Path) -> None:
    node = tmp_path / "node.xml"
    node.write_text(NODE)
    line = [sys.executable, "-X", "faulthandler", "-c", CODE, f"test://{node}"]
    ran = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.splitlines() == [f"{number} one" for number in range(20)]
