# SPDX-License-Identifier: LGPL-2.1-or-later
"""`python3 -m virtrng`, from a checkout."""

from virtrng.cli import entry

entry()
