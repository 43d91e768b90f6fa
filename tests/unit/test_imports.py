# SPDX-License-Identifier: LGPL-2.1-or-later
"""Dependencies point one way, modules are small, and each library is imported in one place."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.unit.support import ROOT

MODULE_LINES_MAX = 400
FUNCTION_LINES_MAX = 35

OWNERS = {
    "libvirt": "virtrng.domain.hypervisor",
    "libvirt_qemu": "virtrng.domain.hypervisor",
    "usb": "virtrng.transport.usb",
    "pyudev": "virtrng.transport.scan",
    "lxml": "virtrng.domain.xml",
    "jinja2": "virtrng.render",
    "rich": "virtrng.cli.output",
    "systemd": "virtrng.service",
    "prometheus_client": "virtrng.metrics",
}

FILES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
    for file in sorted((ROOT / "virtrng").rglob("*.py"))
}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(FILES[module].read_text())


@cache
def imported(module: str) -> frozenset[str]:
    """Return the dotted names that `module` imports anywhere in it, of modules wherever it can be told."""
    names = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are absolute"
            source = str(node.module)
            below = {f"{source}.{alias.name}" for alias in node.names}
            names |= {source} | {name for name in below if name in FILES}
    return frozenset(names)


def ours(module: str) -> set[str]:
    return {name for name in imported(module) if name in FILES}


@cache
def reached(module: str) -> frozenset[str]:
    """Return all of ours that importing `module` imports, packages above them included."""
    found: set[str] = set()
    waiting = {module}
    while waiting:
        name = waiting.pop()
        found.add(name)
        parents = {name.rpartition(".")[0]} - {""}
        waiting |= (ours(name) | parents) - found
    return frozenset(found - {module})


def within(*packages: str) -> list[str]:
    return [
        module for module in FILES if any(module == one or module.startswith(f"{one}.") for one in packages)
    ]


def test_the_walk_sees_the_tree() -> None:
    assert len(FILES) > 40
    assert imported("virtrng.cli.output") >= {"json", "rich", "rich.table", "virtrng.errors"}
    assert "virtrng.domain.xml" in ours("virtrng.render")
    assert "virtrng.transport.base" in reached("virtrng.feeder.daemon")


@pytest.mark.parametrize("library", OWNERS)
def test_each_library_is_imported_in_one_module(library: str) -> None:
    importers = {module for module in FILES if library in {name.split(".")[0] for name in imported(module)}}
    assert importers <= {OWNERS[library]}


def test_no_other_library_is_imported() -> None:
    known = sys.stdlib_module_names | OWNERS.keys() | {"virtrng"}
    found = {module: {name.split(".")[0] for name in imported(module)} - known for module in FILES}
    assert {module: names for module, names in found.items() if names} == {}


def test_each_library_is_used() -> None:
    present = {name.split(".")[0] for module in FILES for name in imported(module)}
    assert present >= {"libvirt", "usb", "pyudev", "lxml", "jinja2", "rich"}


def test_errors_imports_nothing_of_ours() -> None:
    package = set(within("virtrng.errors"))
    assert {name for module in package for name in ours(module)} <= package


@pytest.mark.parametrize("module", within("virtrng.entropy", "virtrng.kernel"))
def test_entropy_and_kernel_import_errors_alone(module: str) -> None:
    allowed = {"virtrng.errors", *within("virtrng.entropy")}
    assert ours(module) <= allowed


@pytest.mark.parametrize("module", within("virtrng.entropy"))
def test_entropy_is_pure(module: str) -> None:
    assert not imported(module) & {"os", "sys", "time", "logging", "pathlib", "datetime", "random", "secrets"}


@pytest.mark.parametrize("module", within("virtrng.keys"))
def test_keys_are_given_their_transport(module: str) -> None:
    assert "virtrng.transport.usb" not in reached(module)


@pytest.mark.parametrize("module", within("virtrng.feeder"))
def test_the_feeder_knows_no_guests(module: str) -> None:
    assert not reached(module) & set(within("virtrng.domain"))


@pytest.mark.parametrize("module", within("virtrng.domain"))
def test_domain_knows_no_feeder(module: str) -> None:
    assert not reached(module) & set(within("virtrng.feeder"))


def test_the_hook_reaches_neither_libvirt_nor_keys_nor_templates() -> None:
    seen = reached("virtrng.domain.hook")
    forbidden = within("virtrng.domain.hypervisor", "virtrng.transport", "virtrng.render", "virtrng.feeder")
    assert not seen & {*forbidden, *within("virtrng.keys", "virtrng.cli")}
    libraries = {name.split(".")[0] for module in seen for name in imported(module)}
    assert libraries & OWNERS.keys() == {"lxml"}


def test_only_main_imports_the_command_line() -> None:
    command_line = set(within("virtrng.cli"))
    importers = {module for module in FILES if ours(module) & command_line}
    assert importers <= command_line | {"virtrng.__main__"}


def test_only_kernel_and_files_import_fcntl() -> None:
    assert {module for module in FILES if "fcntl" in imported(module)} == {"virtrng.kernel", "virtrng.files"}


def test_only_capabilities_calls_libc() -> None:
    assert {module for module in FILES if "ctypes" in imported(module)} == {"virtrng.feeder.capabilities"}


def test_only_kernel_calls_ioctl() -> None:
    callers = {
        module
        for module in FILES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Attribute) and node.attr == "ioctl"
    }
    assert callers - set(within("virtrng.errors")) == {"virtrng.kernel"}


def python_files() -> list[Path]:
    return [*FILES.values(), *sorted((ROOT / "tests").rglob("*.py"))]


def test_no_module_is_long() -> None:
    long = {file.name: len(file.read_text().splitlines()) for file in python_files()}
    assert {name: lines for name, lines in long.items() if lines > MODULE_LINES_MAX} == {}


def test_no_function_is_long() -> None:
    long = {
        f"{file.name}:{node.name}": lines
        for file in python_files()
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    }
    assert long == {}


def test_every_file_says_its_licence() -> None:
    line = "# SPDX-License-Identifier: LGPL-2.1-or-later"
    assert [file.name for file in python_files() if file.read_text().split("\n")[0] != line] == []
