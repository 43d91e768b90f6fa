# SPDX-License-Identifier: LGPL-2.1-or-later
"""Simulated keys that behave, and misbehave, as firmware does."""
