# SPDX-License-Identifier: LGPL-2.1-or-later
"""The root of the tree, and the exit codes."""

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
class VirtrngError(Exception):
    """The root of the tree; never raised itself.

    Each class below has the fields that it annotates, set as those of a dataclass
    are. It is none: making one takes 0.3 ms, and there are dozens in every start.
    """

    fields: ClassVar[tuple[str, ...]] = ()
    code: ClassVar[str] = "error"
    exit_code: ClassVar[ExitCode] = ExitCode.FAILED
    sentence: ClassVar[str] = ""
    hint: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        """Note the fields of a class."""
        cls.fields += tuple(cls.__annotations__)

    def __init__(self, *values: object, **named: object) -> None:
        given = dict(zip(self.fields, values, strict=False)) | named
        if len(values) + len(named) != len(given) or not given.keys() <= set(self.fields):
            raise TypeError(f"{type(self).__name__} has the fields {', '.join(self.fields)}")
        if missing := [name for name in self.fields if name not in given and not hasattr(self, name)]:
            raise TypeError(f"{type(self).__name__} lacks {', '.join(missing)}")
        super().__init__(*values)
        self.__dict__.update(given)

    def __str__(self) -> str:
        """One fact, in lower case, without a full stop."""
        return self.sentence.format(self)

    @property
    def remedy(self) -> str:
        """What the user can do about it, for a line of its own."""
        return self.hint.format(self)
