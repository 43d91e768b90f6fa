# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every error that a user of virtrng can meet: one sentence, one remedy, one exit code.

A class states its texts as templates over its own fields, so that the datum a
caller acts on and the words a person reads cannot drift apart; the sentence says
what the class is for. `code` is the stable name for scripts. This package
imports nothing of ours. All names are imported from here.
"""

from virtrng.errors.base import *
from virtrng.errors.feeder import *
from virtrng.errors.guests import *
from virtrng.errors.keys import *
from virtrng.errors.machine import *
