# SPDX-License-Identifier: LGPL-2.1-or-later
"""Give every libvirt guest a random number device on a pool that a hardware key reseeds."""

__version__ = "0.1.0"
