# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook's shell: what it takes for a requirement, what it never waits for, what it hands on."""

import os
from pathlib import Path

import pytest
from lxml import etree

from tests.unit.domain.hook_rig import OURS, PASSED, WITH, WITHOUT, Hook, domain

REFUSE = "[domains]\nrequire = 'refuse'"


@pytest.fixture
def hook(open_path: Path) -> Hook:
    return Hook(open_path)


def package(hook: Hook, main: str) -> None:
    """Have the hook run a package of one function: main(arguments, config_file)."""
    directory = hook.base / "lib" / "virtrng" / "domain"
    directory.mkdir(parents=True)
    for parent in (directory, directory.parent):
        (parent / "__init__.py").write_text("")
    (directory / "hook.py").write_text(f"import os, sys\ndef main(arguments, config_file):\n    {main}\n")
    hook.install(hook.base / "lib")


@pytest.mark.parametrize(
    ("text", "names_it"),
    [
        ("require = 'off'", True),
        ("  \t require='off'", True),
        ("domains.require = 'off'", True),
        ("rule = [{ match = 'web#1', require = 'off' }]", True),
        ("x = 1 # require", True),
        ('"require" = 1', True),
        ("a\0b require", True),
        ("\xff require", True),
        ("#require", False),
        (" \t# require = 'refuse'", False),
        ("## require", False),
        ("", False),
        ("[domains]", False),
    ],
)
def test_what_goes_on_to_python(text: str, hook: Hook, *, names_it: bool) -> None:
    package(hook, "return 3")
    hook.config_file.write_bytes(f"[feeder]\n{text}".encode("latin-1"))
    assert hook.call("prepare").code == int(names_it)
    hook.config_file.write_bytes(f"{text}\r\n# the end\n".encode("latin-1"))
    assert hook.call("prepare").code == int(names_it)


# --- what is never waited for


@pytest.mark.parametrize("operation", ["prepare", "migrate"])
@pytest.mark.parametrize("kind", ["fifo", "directory", "device", "none"])
def test_a_configuration_that_is_no_file(kind: str, operation: str, hook: Hook) -> None:
    if kind == "fifo":
        os.mkfifo(hook.config_file)
    elif kind == "directory":
        hook.config_file.mkdir()
    elif kind == "device":
        hook.config_file.symlink_to("/dev/zero")
    answer = hook.call(operation, WITH)
    assert (answer.code, answer.err) == (0, "")
    assert bool(answer.out) is (kind == "none" and operation == "migrate")


@pytest.mark.parametrize("line", ["x" * 1000 + "\n", "x" * 50_000_000], ids=["long", "one line"])
def test_a_configuration_of_fifty_megabytes(line: str, hook: Hook) -> None:
    with hook.config_file.open("w") as file:
        file.write(f"# {line}" * (50_000_000 // len(line)))
    for operation in ("prepare", "started", "migrate"):
        assert hook.call(operation, WITHOUT) == PASSED
    with hook.config_file.open("a") as file:
        file.write(f"\n{REFUSE}\n")
    assert hook.call("prepare", WITHOUT) == PASSED


@pytest.mark.parametrize("operation", ["prepare", "migrate", "restore", "release", "started"])
@pytest.mark.parametrize("filling", [b"\0", b"<a>", b" "])
def test_fifty_megabytes_on_stdin(operation: str, filling: bytes, hook: Hook) -> None:
    hook.configure(REFUSE)
    content = WITHOUT.replace(b"</devices>", filling * (50_000_000 // len(filling)) + b"</devices>")
    assert hook.call(operation, content, extra="from snapshot") == PASSED


# --- what it hands on


@pytest.mark.parametrize("operation", ["migrate", "restore", "prepare", "release"])
@pytest.mark.parametrize(
    "end", ["return 0", "return 1", "return 3", "raise OSError", "os.kill(0, 9)", "os.abort()"]
)
def test_what_is_not_a_whole_answer_is_thrown_away(operation: str, end: str, hook: Hook) -> None:
    hook.configure(REFUSE)
    package(hook, f"os.write(1, b'<domain>half'); print('junk', flush=True); os.setpgid(0, 0); {end}")
    answer = hook.call(operation, WITH, extra="from snapshot")
    assert answer.out == b""
    assert answer.code == int(operation == "prepare" and end == "return 3")


@pytest.mark.parametrize("operation", ["migrate", "restore"])
def test_every_character_comes_through(operation: str, hook: Hook) -> None:
    hook.configure("")
    letters = "".join(chr(n) for n in [*range(0x20, 0x250), 0x2028, 0xFFFD, 0x1F600] if not 0x7F <= n < 0xA0)
    text = letters.replace("&", "&amp;").replace("<", "&lt;") + "\\n \\\\ %s $(id) `id` \\c\n\n\t'\""
    given = domain(OURS).replace(b"<os>", f"<title>{text}</title><os>".encode())
    given = given.replace(b"hunter2", "\u00c1\\0\u0085\u0081 %d".encode())
    answer = hook.call(operation, given)
    assert (answer.code, answer.err) == (0, "")
    found, expected = etree.fromstring(answer.out), etree.fromstring(given)
    assert found.findtext("title") == expected.findtext("title")
    assert found.find("devices/graphics").attrib == expected.find("devices/graphics").attrib
    assert answer.out.endswith(b"</domain>\n")


@pytest.mark.parametrize("name", ["a\nb", "*", "$HOME", "-n", "%s", "a'b\"c"])
def test_arguments_are_not_looked_into(name: str, hook: Hook) -> None:
    package(hook, "os.write(2, repr(arguments).encode()); return 3")
    hook.configure(REFUSE)
    assert hook.call("prepare", name=name, extra="* ?").err == repr([name, "prepare", "begin", "* ?"])
