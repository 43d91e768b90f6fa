# SPDX-License-Identifier: LGPL-2.1-or-later
"""The root of the tree, and the exit codes."""

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, dataclass_transform


class ExitCode(IntEnum):
    """The exit status of every command."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    NO_KEY = 4
    SOME_FAILED = 5


@dataclass_transform(eq_default=False)
@dataclass(eq=False)
class VirtrngError(Exception):
    """The root of the tree; never raised itself. Each class below is a dataclass of its annotations."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[ExitCode] = ExitCode.FAILED
    sentence: ClassVar[str] = ""
    hint: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        """Make a dataclass of it; two errors are never equal."""
        dataclass(eq=False)(cls)

    def __str__(self) -> str:
        """One fact, in lower case, without a full stop."""
        return self.sentence.format(self)

    @property
    def remedy(self) -> str:
        """What the user can do about it, for a line of its own."""
        return self.hint.format(self)
