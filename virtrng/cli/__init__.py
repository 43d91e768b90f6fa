# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line: one module a command, imported only when it is asked for."""

import argparse
import importlib
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from virtrng import __version__
from virtrng.cli import output
from virtrng.errors import ExitCode, LibraryMissing, VirtrngError


class CommandModule(Protocol):
    """What a module of this package offers."""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...  # noqa: D102

    def run(self, arguments: argparse.Namespace) -> int: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class Command:
    """A row of `virtrng --help`."""

    name: str
    help: str
    everyday: bool

    @property
    def module(self) -> CommandModule:
        """Its module, imported now."""
        name = {"test": "blocktest"}.get(self.name, self.name)
        return cast("CommandModule", importlib.import_module(f"virtrng.cli.{name}"))


COMMANDS = (
    Command("keys", "list the keys that are plugged in; pair, test or capture one", everyday=True),
    Command("enable", "give guests the random number device", everyday=True),
    Command("disable", "take it away again", everyday=True),
    Command("status", "show what feeds the pool, when it last did, and the guests", everyday=True),
    Command("feed", "feed the kernel pool from a key, in the foreground", everyday=False),
    Command("xml", "add the device to domain XML on its way to libvirt", everyday=False),
    Command("watch", "give guests the device as libvirt tells of them, in the foreground", everyday=False),
    Command("hook", "install, remove or show the libvirt hook", everyday=False),
    Command("simulate", "be a simulated key, for machines without one and for tests", everyday=False),
    Command("test", "run the FIPS 140-2 and SP 800-90B tests over a file", everyday=False),
    Command("render", "print a template: the unit, the sample configuration, the device", everyday=False),
)


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit status; errors are printed, never raised."""
    arguments = argparse.Namespace(verbose=False)
    try:
        return _run(argv, arguments)
    except VirtrngError as error:
        output.error(error)
        logging.getLogger(__name__).debug("", exc_info=error)
        return error.exit_code
    except BrokenPipeError:  # the reader of our output has seen enough
        output.drop()
        return ExitCode.DONE
    except KeyboardInterrupt:
        return 130
    except ModuleNotFoundError as error:
        missing = LibraryMissing(str(error.name), sys.executable)
        output.error(missing)
        return missing.exit_code
    except Exception as error:
        if arguments.verbose:
            raise
        output.internal_error(error)
        return ExitCode.FAILED


def _run(argv: Sequence[str], arguments: argparse.Namespace) -> int:
    try:
        with output.to_stdout():
            _parser().parse_args(argv, arguments)
    except SystemExit as ended:  # --help, --version, or a usage that argparse has explained
        output.flush()
        return ExitCode.USAGE if ended.code else ExitCode.DONE
    logging.basicConfig(
        stream=sys.stderr, format="%(message)s", level=logging.DEBUG if arguments.verbose else logging.INFO
    )
    code = cast("int", arguments.run(arguments))
    output.flush()
    return code


def entry() -> None:
    """The console script."""
    sys.exit(main(sys.argv[1:]))


class _CommandParser(argparse.ArgumentParser):
    """The parser of one command: its module is imported when its own words are parsed, not before."""

    def __init__(self, *, command: Command, prog: str) -> None:
        super().__init__(
            prog=prog,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self._command: Command | None = command

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[no-untyped-def]
        if self._command is not None:
            module = self._command.module
            self._command = None
            module.add_arguments(self)
            self.set_defaults(run=module.run)
        return super().parse_known_args(args, namespace)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="virtrng",
        usage="virtrng [--config-file FILE] [-c URI] [-v] COMMAND …",
        description="Give libvirt guests a random number device on a pool that a hardware key reseeds.",
        epilog=_command_list(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config-file", metavar="FILE", type=Path, help="instead of /etc/virtrng/virtrng.toml"
    )
    parser.add_argument(
        "-c", "--connect", metavar="URI", help="as virsh has it (LIBVIRT_DEFAULT_URI, else qemu:///system)"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say more, with the trace of an error")
    parser.add_argument("--version", action="version", version=f"virtrng {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS, prog="virtrng",
        parser_class=_CommandParser,
    )  # fmt: skip
    for command in COMMANDS:
        commands.add_parser(command.name, command=command)
    return parser


def _command_list() -> str:
    lines = []
    for title, everyday in (("everyday commands:", True), ("plumbing:", False)):
        lines.append(title)
        lines += [f"  {one.name:<10}{one.help}" for one in COMMANDS if one.everyday is everyday]
    return "\n".join([*lines, "", "'virtrng COMMAND --help' tells more; exit status: see virtrng(8)"])
