# SPDX-License-Identifier: LGPL-2.1-or-later
"""`python3 -m virtrng`, and `python3 DIRECTORY` as the unit that a checkout renders has it."""

import sys
from pathlib import Path

if not __package__:  # run as a directory: that is first in the path, where its parent has to be
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from virtrng.cli import entry

entry()
