# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever the hook is called with: the exit codes of the table, and nothing on stdout but a whole answer."""

import random
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from tests.unit.domain.hook_rig import FOREIGN, OURS, UUID, WITH, WITHOUT, Answer, Hook, domain
from virtrng import config
from virtrng.config import Config
from virtrng.domain import arrival, glance, marks, rules, xml
from virtrng.errors import VirtrngError

CONFIGS = {
    "refuse": "[domains]\nrequire = 'refuse'",
    "warn": "[domains]\nrequire = 'warn'",
    "by rule": "[[domains.rule]]\nmatch = 'w*'\nrequire = 'refuse'",
    "in a comment": "  # require = 'refuse'",
    "broken": "[domains\nrequire = 'refuse'",
}
OPERATIONS = [
    "prepare",
    "start",
    "started",
    "stopped",
    "release",
    "reconnect",
    "attach",
    "migrate",
    "restore",
]
SUBS = ["begin", "end", "-"]
EXTRAS = ["-", "from snapshot", "destroyed", "daemon"]
DEFINITIONS = [WITHOUT, WITH, domain(FOREIGN), domain(FOREIGN, OURS), domain(name="db"), b""]
REACHING_PYTHON = ("prepare", "migrate", "restore", "release")


@pytest.fixture(scope="module")
def hook() -> Iterator[Hook]:
    with tempfile.TemporaryDirectory(prefix="virtrng-hook-") as base:
        Path(base).chmod(0o755)
        yield Hook(Path(base))


def known(text: str, hook: Hook) -> Config | None:
    """Return what that configuration says, None if it is broken."""
    hook.configure(text)
    try:
        return config.load(hook.config_file)
    except VirtrngError:
        return None


def refused(operation: str, content: bytes, settings_: Config | None) -> bool:
    """Whether the table says so; every mark has been removed."""
    if operation != "prepare" or settings_ is None:
        return False
    try:
        guest = glance.at(content)
        marks.take("/nonexistent", guest.uuid)
    except (VirtrngError, ValueError):
        return False
    return not guest.virtio and (
        rules.requirement(guest.name, guest.uuid, guest.os, settings_.domains) == "refuse"
    )


def changed(operation: str, content: bytes, settings_: Config | None) -> bytes:
    """Return the answer that the table says, as XML that can be compared."""
    if operation not in ("migrate", "restore") or settings_ is None:
        return b""
    try:
        glance.at(content)
        root = xml.parse(content)
        found = arrival.retarget(root, settings_.domains)
    except VirtrngError:
        return b""
    return xml.text_of(root).encode() if found else b""


def check(hook: Hook, text: str, arguments: Sequence[str | bytes], content: bytes) -> Answer:
    """Call it once, and compare with the table."""
    settings_ = known(text, hook)
    shutil.rmtree(hook.marks, ignore_errors=True)
    answer = hook.call_with(arguments, content)
    given_ = arguments[1] if len(arguments) > 1 else ""
    operation = given_ if isinstance(given_, str) else given_.decode(errors="replace")
    case = (text, arguments, content)
    assert answer.code == int(refused(operation, content, settings_)), case
    assert answer.err.startswith("virtrng: ") if answer.code else answer.err == "", case
    printed = xml.text_of(xml.parse(answer.out)).encode() if answer.out else b""
    assert printed == changed(operation, content, settings_), case
    return answer


WORDS = st.sampled_from([*OPERATIONS, *SUBS, *EXTRAS, UUID])
GARBAGE = st.binary(max_size=8).map(lambda word: word.replace(b"\0", b""))
ARGUMENTS = st.lists(WORDS | GARBAGE, max_size=6)
CALLS = st.tuples(
    st.sampled_from(["web", "-c", "a b", "$(false)", "\u00e9"]), st.sampled_from(OPERATIONS),
    st.sampled_from(SUBS), st.sampled_from(EXTRAS),
).map(list)  # fmt: skip
STDINS = st.sampled_from(DEFINITIONS) | st.binary(max_size=200)


@settings(max_examples=scaled(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(CONFIGS)), CALLS | ARGUMENTS, STDINS)
def test_any_call(hook: Hook, text: str, arguments: list[str | bytes], content: bytes) -> None:
    check(hook, CONFIGS[text], arguments, content)


def mutated(content: bytes, draw: random.Random) -> bytes:
    """Return a definition with a few places changed, cut or doubled, as no libvirt would write it."""
    text = bytearray(content)
    for _ in range(draw.choice([0, 0, 1, 3])):
        place, length = draw.randrange(len(text) + 1), draw.randrange(30)
        kind = draw.randrange(4)
        if kind == 0:
            text[place : place + length] = b""
        elif kind == 1:
            text[place:place] = text[place : place + length]
        elif kind == 2:
            text[place:place] = draw.choice(DEFINITIONS)[place : place + length]
        else:
            text[place : place + 1] = bytes([draw.randrange(256)])
    return bytes(text)


def directed(draw: random.Random) -> tuple[str, list[str | bytes], bytes]:
    """Return a call that is nearly one of libvirt's; one in four goes as far as Python."""
    reaching = draw.random() < 0.25
    others = [one for one in OPERATIONS if one not in REACHING_PYTHON]
    operation = draw.choice(["prepare", *REACHING_PYTHON] if reaching else others)
    arguments: list[str | bytes] = ["web", operation, draw.choice(SUBS), draw.choice(EXTRAS)]
    if not reaching and draw.random() < 0.3:
        arguments[1] = draw.randbytes(draw.randrange(1, 12)).replace(b"\0", b"p")
    del arguments[draw.choice([4, 4, 4, 4, 4, 2, 1, 0]) :]
    arguments += draw.choices(EXTRAS, k=draw.choice([0, 0, 0, 3]))
    content = mutated(draw.choice([WITHOUT, WITHOUT, *DEFINITIONS]), draw)
    if not reaching and draw.random() < 0.1:
        content += draw.randbytes(1) * 300_000
    return draw.choice(["refuse", "refuse", "refuse", *CONFIGS]), arguments, content


def test_nearly_a_call_of_libvirts(hook: Hook) -> None:
    draw = random.Random(8)
    answers = [
        check(hook, CONFIGS[text], arguments, content)
        for text, arguments, content in (directed(draw) for _ in range(scaled(400)))
    ]
    codes = [answer.code for answer in answers]
    assert {0, 1} == set(codes)
    assert any(answer.out for answer in answers)
