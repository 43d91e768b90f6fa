# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng hook`: install, remove or show the libvirt hook."""

import argparse
from pathlib import Path

from virtrng import config
from virtrng.cli import output
from virtrng.domain import hookfile
from virtrng.errors import ExitCode, FileFailed
from virtrng.paths import PACKAGE, data_file


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
    hooks_dir, config_file = _place(arguments), _config_file(arguments)
    config.load(arguments.config_file)  # a hook with a broken configuration would do nothing, silently
    if not arguments.hooks_dir:
        hookfile.check_safe(*PACKAGE.rglob("*"), data_file("hooks/qemu"), config_file)
    content = hookfile.rendered(data_file("hooks/qemu"), PACKAGE.parent, config_file)
    file = hookfile.destination(hooks_dir)
    first = not hookfile.others(hooks_dir) and not file.exists()
    if arguments.dry_run:
        changed = hookfile.differs(hooks_dir, content)
    else:
        changed = hookfile.install(hooks_dir, content)
    if arguments.json:
        output.document({"hook": str(file), "changed": changed, "reload_needed": changed and first})
        return ExitCode.DONE
    would = "would be " if arguments.dry_run else ""
    output.line(f"{file}: {would}installed" if changed else f"{file}: installed already")
    if changed and first:
        output.line("  it is the first qemu hook there: a libvirtd that runs must reload before it calls it")
        output.line("  ('systemctl reload libvirtd', or virtqemud, or SIGHUP)")
    return ExitCode.DONE


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
    hooks_dir, config_file = _place(arguments), _config_file(arguments)
    file = hookfile.destination(hooks_dir)
    state = "absent"
    if file.exists():
        current = hookfile.rendered(data_file("hooks/qemu"), PACKAGE.parent, config_file)
        ours = hookfile.is_ours(file)
        state = "foreign" if not ours else "installed" if file.read_bytes() == current else "outdated"
    beside = [str(other) for other in hookfile.others(hooks_dir)]
    if arguments.json:
        output.document({"hook": str(file), "state": state, "others": beside})
    else:
        output.line(f"{file}: {state}")
        for other in beside:
            output.line(f"{other}: another qemu hook, which libvirt runs too")
    return ExitCode.DONE
