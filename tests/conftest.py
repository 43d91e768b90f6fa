# SPDX-License-Identifier: LGPL-2.1-or-later
"""What all tests stand on."""

import signal


def pytest_configure() -> None:
    # A shell starts what is to run in its background with SIGINT ignored, and every child inherits that: a
    # test that interrupts a command would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
