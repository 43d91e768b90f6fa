# SPDX-License-Identifier: LGPL-2.1-or-later
"""Guests: what they have, what policy wants for them, and how the two are brought together."""
