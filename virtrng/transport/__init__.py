# SPDX-License-Identifier: LGPL-2.1-or-later
"""Moving bytes to and from keys; nothing here knows what they mean."""
