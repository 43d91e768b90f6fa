# SPDX-License-Identifier: LGPL-2.1-or-later
"""From a key to the kernel pool."""
