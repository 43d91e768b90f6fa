# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng hook`: install, remove or show the libvirt hook."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from virtrng import config
from virtrng.cli import output
from virtrng.domain import daemon, hookfile
from virtrng.domain.daemon import Daemon
from virtrng.errors import ExitCode, FileFailed, ReloadElsewhere
from virtrng.paths import PACKAGE, data_file

_FIRST = (
    "  it is the first qemu hook there: a libvirtd that runs must reload before it calls it",
    "  ('systemctl reload libvirtd', or virtqemud, or SIGHUP)",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the verbs."""
    verbs = parser.add_subparsers(metavar="VERB", required=True, parser_class=argparse.ArgumentParser)
    for name, act, text in (
        ("install", _install, "put the hook beside whatever hooks there are"),
        ("uninstall", _uninstall, "remove it; other hooks stay"),
        ("status", _status, "show whether it is there, and which others are"),
    ):
        verb = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        verb.add_argument(
            "--hooks-dir", metavar="DIR", type=Path, help=f"another place than {hookfile.DEFAULT_HOOKS_DIR}"
        )
        verb.add_argument("--json", action="store_true", help="print JSON")
        if act is not _status:
            verb.add_argument("--dry-run", action="store_true", help="say what would be done, do nothing")
        if act is _install:
            verb.add_argument(
                "--reload", action="store_true", help="have libvirt's daemon look for hooks anew if it must"
            )
        verb.set_defaults(verb=act)


def run(arguments: argparse.Namespace) -> int:
    """Do what the verb says."""
    try:
        return int(arguments.verb(arguments))
    except PermissionError as error:  # a hooks directory that this user may not look into
        raise FileFailed(str(_place(arguments)), "look into", error.strerror or str(error)) from error


def _place(arguments: argparse.Namespace) -> Path:
    return (arguments.hooks_dir or hookfile.DEFAULT_HOOKS_DIR).absolute()


def _config_file(arguments: argparse.Namespace) -> Path:
    return (arguments.config_file or config.DEFAULT_FILE).absolute()


def _install(arguments: argparse.Namespace) -> int:
    hooks_dir, content = _place(arguments), _checked(arguments)
    file = hookfile.destination(hooks_dir)
    first = not hookfile.others(hooks_dir) and not file.exists()
    if arguments.dry_run:
        changed = hookfile.differs(hooks_dir, content)
    else:
        changed = hookfile.install(hooks_dir, content)
    unaware = [] if arguments.hooks_dir else _unaware(hooks_dir)
    elsewhere = bool(arguments.hooks_dir) and changed and first
    reloading = unaware if arguments.reload and not arguments.dry_run else []
    for one in reloading:
        daemon.reload(one, hooks_dir)
    if arguments.json:
        needed = elsewhere or unaware != reloading
        names = [one.name for one in reloading]
        output.document({"hook": str(file), "changed": changed, "reload_needed": needed, "reloaded": names})
        return ExitCode.DONE
    would = "would be " if arguments.dry_run else ""
    output.line(f"{file}: {would}installed" if changed else f"{file}: installed already")
    for text in _FIRST if elsewhere else _of_reload(unaware, arguments):
        output.line(text)
    return ExitCode.DONE


def _checked(arguments: argparse.Namespace) -> bytes:
    """Return the hook to install; raises where it would not be called, not work, or not be safe."""
    config_file = _config_file(arguments)
    config.load(arguments.config_file)  # a hook with a broken configuration would do nothing, silently
    if arguments.hooks_dir and arguments.reload:
        raise ReloadElsewhere(str(arguments.hooks_dir))
    if not arguments.hooks_dir:
        daemon.check_version(daemon.installed_version())
        hookfile.check_safe(*PACKAGE.rglob("*"), data_file("hooks/qemu"), config_file)
    return hookfile.rendered(data_file("hooks/qemu"), PACKAGE.parent, config_file)


def _unaware(hooks_dir: Path) -> list[Daemon]:
    """List the daemons that run and found no hook when they last looked."""
    since = hookfile.all_since(hooks_dir)
    return [one for one in daemon.running() if not one.may_know(since)]


def _of_reload(unaware: Sequence[Daemon], arguments: argparse.Namespace) -> Iterator[str]:
    for one in unaware:
        who = f"  {one.name} (pid {one.pid})"
        if "reload" in arguments and arguments.reload:
            done = "would reload" if arguments.dry_run else "has reloaded: it calls hooks from now on"
            yield f"{who} {done}"
        else:
            yield f"{who} found no qemu hook when it started, and calls none until it reloads:"
            yield "  'virtrng hook install --reload' has it do so; guests run on"


def _uninstall(arguments: argparse.Namespace) -> int:
    hooks_dir = _place(arguments)
    file = hookfile.destination(hooks_dir)
    changed = hookfile.present(hooks_dir) if arguments.dry_run else hookfile.uninstall(hooks_dir)
    if arguments.json:
        output.document({"hook": str(file), "changed": changed})
    else:
        would = "would be " if arguments.dry_run else ""
        output.line(f"{file}: {would}removed" if changed else f"{file}: is not there")
    return ExitCode.DONE


def _status(arguments: argparse.Namespace) -> int:
    hooks_dir = _place(arguments)
    file = hookfile.destination(hooks_dir)
    state = _state(file, _config_file(arguments))
    beside, backups = hookfile.others(hooks_dir), hookfile.backups(hooks_dir)
    unaware = [] if arguments.hooks_dir or state == "absent" else _unaware(hooks_dir)
    if arguments.json:
        listed = {"others": [*map(str, beside)], "backups": [*map(str, backups)]}
        output.document({"hook": str(file), "state": state, **listed, "reload_needed": bool(unaware)})
        return ExitCode.DONE
    output.line(f"{file}: {state}")
    for other in beside:
        if other in backups:
            output.line(f"{other}: looks like a backup, and libvirt runs it: move it away, or 'chmod -x' it")
        else:
            output.line(f"{other}: another qemu hook, which libvirt runs too")
    for text in _of_reload(unaware, arguments):
        output.line(text)
    return ExitCode.DONE


def _state(file: Path, config_file: Path) -> str:
    if not file.exists():
        return "absent"
    if not hookfile.is_ours(file):
        return "foreign"
    if not hookfile.is_run(file):
        return "not executable"
    current = hookfile.rendered(data_file("hooks/qemu"), PACKAGE.parent, config_file)
    return "installed" if file.read_bytes() == current else "outdated"
