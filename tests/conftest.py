# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all tests stand on."""

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

# What hypothesis keeps, its table of characters, goes where the tree keeps what it can make again.
set_hypothesis_home_dir(str(Path(__file__).resolve().parents[1] / ".cache" / "hypothesis"))  # type: ignore[no-untyped-call]

# How long an example takes says nothing but how busy the machine is.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")


def pytest_configure() -> None:
    # A shell starts what is to run in its background with SIGINT ignored, and every child inherits that: a
    # test that interrupts a command would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Give a directory that every user can get to, and write into: tmp_path is its owner's alone."""
    path = Path(tempfile.mkdtemp(prefix="virtrng-test-"))
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)
