# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the machine and its files can do to us."""

from virtrng.errors.base import ExitCode, VirtrngError


class ConfigError(VirtrngError):
    file: str
    path: str
    value: str
    allowed: str
    code = "bad-configuration"
    exit_code = ExitCode.USAGE
    sentence = "{0.file}: {0.path} is {0.value}"
    hint = "allowed: {0.allowed}"


class ConfigUnreadable(VirtrngError):
    file: str
    reason: str
    code = "unreadable-configuration"
    exit_code = ExitCode.USAGE
    sentence = "{0.file}: {0.reason}"
    hint = "'virtrng render virtrng.toml' prints a sample"


class FileFailed(VirtrngError):
    file: str
    doing: str
    reason: str
    code = "file-failed"
    sentence = "cannot {0.doing} {0.file}: {0.reason}"
    hint = "check its directory, its permissions and the space on its disk"


class TooShort(VirtrngError):
    file: str
    need_bytes: int
    code = "too-short"
    sentence = "{0.file} is too short to test"
    hint = "one block needs {0.need_bytes} bytes"


class LibraryMissing(VirtrngError):
    library: str
    interpreter: str
    code = "library-missing"
    sentence = "{0.interpreter} has no module '{0.library}'"
    hint = "run it with /usr/bin/python3; 'make deps' installs what Debian's Python needs for it"


class NoSuchTemplate(VirtrngError):
    name: str
    known: str
    code = "no-such-template"
    exit_code = ExitCode.USAGE
    sentence = "no template is called '{0.name}'"
    hint = "there are: {0.known}"


class PlaceTaken(VirtrngError):
    place: str
    why: str
    code = "place-taken"
    sentence = "{0.place} cannot hold a simulated key: {0.why}"
    hint = "choose another place; or free that one, if no simulated key is in use there"


class MetricsUnavailable(VirtrngError):
    address: str
    reason: str
    code = "metrics-unavailable"
    sentence = "cannot serve metrics at {0.address}: {0.reason}"
    hint = (
        "free that address, or name another in [metrics]; "
        "a service needs virtrng-metrics.socket or virtrng-watch-metrics.socket"
    )
