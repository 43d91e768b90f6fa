# SPDX-License-Identifier: LGPL-2.1-or-later
"""What decides whether noise may be used, and how much of it counts: tests and conditioning, all pure."""
