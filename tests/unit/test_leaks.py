# SPDX-License-Identifier: LGPL-2.1-or-later
"""The fixture that looks for what a test left behind sees what it must."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py").read_text()

LEAKS = {
    "descriptor": "import os\ndef test_it():\n    os.open('/dev/null', os.O_RDONLY)\n",
    "child": "import subprocess\nkept = []\n"
    "def test_it():\n    kept.append(subprocess.Popen(['/bin/true']))\n",
    "thread": "import threading\nstop = threading.Event()\n"
    "def test_it():\n    threading.Thread(target=stop.wait, name='mine', daemon=True).start()\n",
}


@pytest.mark.parametrize("what", LEAKS)
def test_a_leak_fails_the_test(what: str, tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(LEAKS[what])
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        check=False,
    )
    assert "1 passed, 1 error" in run.stdout
    assert f"it left behind: {what}" in run.stdout
