# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng xml`: its options, what stands between documents, and input that is none."""

from pathlib import Path

import pytest

from tests.unit.cli.conftest import Command
from virtrng.errors import ExitCode, MalformedXml, Refused

MINIMAL = b"<domain type='kvm'><name>a</name><os><type>hvm</type></os></domain>"
FOREIGN = MINIMAL.replace(
    b"</domain>",
    b"<devices><rng model='virtio'><backend model='builtin'/></rng></devices></domain>",
)


# --- options


def test_rate_and_source(command: Command) -> None:
    ran = command("xml", "--rate", "65536/250", "--source", "/dev/urandom", stdin=MINIMAL)
    assert b"<rate bytes='65536' period='250'/><backend model='random'>/dev/urandom</backend>" in ran.out


def test_what_was_asked_for_is_noted_for_the_next_enable(command: Command) -> None:
    assert b"virtrng:guest" not in command("xml", stdin=MINIMAL).out
    once = command("xml", "--rate", "512/250", stdin=MINIMAL).out
    assert b"device='on' bytes='512' period='250'/>" in once
    # The guest's own wish comes before this machine's policy.
    assert command("xml", "--source", "/dev/urandom", stdin=once).out.count(b"bytes='512'") == 2


def test_model(command: Command) -> None:
    ran = command("xml", "--model", "virtio-transitional", stdin=MINIMAL)
    assert b"<rng model='virtio-transitional'>" in ran.out
    ccw = MINIMAL.replace(b"<type>", b"<type arch='s390x'>")
    ran = command("xml", "--model", "virtio-transitional", stdin=MINIMAL + ccw)
    assert (ran.code, ran.out) == (ExitCode.REFUSED, b"")
    assert ran.err.startswith("virtrng: a: its ccw bus has no virtio-transitional devices")


def test_the_configuration_counts_and_the_options_come_first(command: Command, tmp_path: Path) -> None:
    file = tmp_path / "virtrng.toml"
    file.write_text(
        "[domains]\nsource = '/dev/urandom'\nrate.bytes = 50\n"
        "[[domains.rule]]\nmatch = 'b*'\nrate.bytes = 60\nforeign = 'replace'\n"
    )
    assert b"<rate bytes='50' period='1000'/>" in command("--config-file", file, "xml", stdin=MINIMAL).out
    other = MINIMAL.replace(b">a<", b">b1<")
    assert b"bytes='60'" in command("--config-file", file, "xml", stdin=other).out
    assert b"bytes='70'" in command("--config-file", file, "xml", "--rate", "70/1", stdin=other).out
    assert command("--config-file", file, "xml", stdin=FOREIGN).out == FOREIGN
    replaced = command("--config-file", file, "xml", stdin=FOREIGN.replace(b">a<", b">b1<")).out
    assert b"bytes='60'" in replaced
    assert b"builtin" in replaced, "what was replaced is kept"


@pytest.mark.parametrize("source", ["/dev/hwrng", "random", "/run/egd", "/dev/random "])
def test_a_source_that_would_kill_qemu_is_refused(source: str, command: Command) -> None:
    ran = command("xml", "--source", source, stdin=MINIMAL)
    assert (ran.code, ran.out) == (ExitCode.REFUSED, b"")
    trouble = Refused("--source", f"QEMU dies or hangs when '{source}' fails or ends", "")
    assert ran.err.splitlines() == [
        f"virtrng: {trouble}",
        "  choose /dev/random or /dev/urandom with --source",
    ]


def test_a_source_in_its_own_metadata_that_would_kill_qemu_keeps_it_as_it_is(command: Command) -> None:
    note = b"<metadata><v:guest xmlns:v='urn:virtrng:domain:1' source='/dev/hwrng'/></metadata></domain>"
    content = MINIMAL.replace(b"</domain>", note)
    ran = command("xml", stdin=content)
    assert (ran.code, ran.out) == (0, content)
    assert ran.err == "a: passed through: QEMU dies or hangs when '/dev/hwrng' fails or ends\n"


def test_a_rate_that_keeps_guests_waiting(command: Command) -> None:
    ran = command("xml", "--rate", "16/1000", stdin=MINIMAL)
    assert ran.code == 0
    assert ran.err.startswith("at 16 B/1000 ms a guest may wait 4 s")
    ran = command("xml", "--rate", "1/1000", stdin=MINIMAL)
    assert (ran.code, ran.out) == (ExitCode.REFUSED, b"")
    assert "--force" not in ran.err


# --- bad input


BAD = [
    (b"", 1, 1, "Document is empty"),
    (b" \n", 2, 1, ""),
    (b"nonsense", 1, 1, "Start tag expected, '<' not found"),
    (b"<domain", 1, 8, ""),
    (b"</domain>", 1, 2, ""),
    (b"<domain>\n<a>\n</domain>", 3, 10, "Opening and ending tag mismatch: a line 2 and domain"),
    (b"\n\n<domain>\n<a></b>\n</domain>", 4, 8, "Opening and ending tag mismatch: a line 4 and b"),
    (b"<network/>", 1, 1, "<network> where <domain> is expected"),
    (b"<domain/>\n<pool/>", 2, 1, "<pool> where <domain> is expected"),
    (b"<domstatus>\n<domain/></domstatus>", 1, 1, "<domstatus> where <domain> is expected"),
    (b"<domainsnapshot>\n<domain/></domainsnapshot>", 1, 1, "<domainsnapshot> where <domain> is"),
    (b"<domain></domain> x", 1, 19, "Start tag expected, '<' not found"),
    (b"<domain/>\n<!-- -- -->", 2, 6, "Double hyphen within comment"),
    (b"<domain/><!-- ", 1, 15, "Comment not terminated"),
    (b"<!-- only -->\n", 2, 1, ""),
    (b"\xff\xfe\x00", 1, 1, ""),
    (b"<domain>\x00</domain>", 1, 9, ""),
    (b"<domain>&none;</domain>", 1, 15, "Entity 'none' not defined"),
    (b"<a:domain xmlns:a='urn:x'/>", 1, 1, "<domain> where <domain> is expected"),
    (b"<domain xmlns='urn:x'/>", 1, 1, "<domain> where <domain> is expected"),
    (b"<?xml version='1.0' encoding='UTF-8'?><domain>\xe9</domain>", 1, 47, "Input is not proper UTF-8"),
    ("<?xml version='1.0'?>\n<domain>\n</a></domain>".encode("utf-16"), 3, 5, "Opening and ending tag"),
]


@pytest.mark.parametrize(("content", "line", "column", "reason"), BAD, ids=[repr(row[0]) for row in BAD])
def test_malformed(content: bytes, line: int, column: int, reason: str, command: Command) -> None:
    ran = command("xml", stdin=content)
    assert (ran.code, ran.out) == (1, b"")
    assert ran.err.splitlines()[-2].startswith(f"virtrng: line {line}, column {column}: {reason}")
    assert ran.err.splitlines()[-1] == f"  {MalformedXml.hint}"


@pytest.mark.parametrize(
    "between", [b"\n", b"", b" ", b"\n<!-- </domain> -->\n", b"<!-- -->\n<?xml version='1.0'?>\n"]
)
def test_a_second_document_that_is_bad_lets_nothing_out(between: bytes, command: Command) -> None:
    bad = b"<domain type='kvm'>\n  <oops>\n</domain>\n"
    ran = command("xml", stdin=MINIMAL + between + bad + MINIMAL)
    assert (ran.code, ran.out) == (1, b"")
    line = 3 + between.count(b"\n")
    assert ran.err.startswith(f"virtrng: line {line}, column 10: Opening and ending tag mismatch")


def test_the_column_counts_from_the_beginning_of_its_line(command: Command) -> None:
    ran = command("xml", stdin=MINIMAL + b"<domain><a></domain>")
    column = len(MINIMAL) + len(b"<domain><a></domain>") + 1
    assert ran.err.startswith(f"virtrng: line 1, column {column}: ")


def test_a_file_that_cannot_be_read(command: Command, tmp_path: Path) -> None:
    ran = command("xml", tmp_path / "none.xml")
    assert (ran.code, ran.out) == (1, b"")
    assert ran.err.startswith(f"virtrng: cannot read {tmp_path}/none.xml: No such file or directory")


def _bomb(levels: int) -> bytes:
    letters = [b"<!ENTITY %c '%s'>" % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(levels)]
    return b"<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaa'>%b]>" % b"".join(letters)


@pytest.mark.parametrize(
    "content",
    [
        _bomb(8) + b"<domain type='kvm'><title>&i;</title></domain>",
        _bomb(8) + b"<domain type='kvm'><title x='&i;'/></domain>",
        b"<!DOCTYPE d [<!ENTITY a '%b'>]><domain x='%b'/>" % (b"a" * 100_000, b"&a;" * 10_000),
        "<!DOCTYPE d [<!ENTITY a '{}'>]><domain x='{}'/>".format("a" * 100_000, "&a;" * 10_000).encode(
            "utf-16"
        ),
        b"<!DOCTYPE d [<!ENTITY a '&b;'><!ENTITY b '&a;'>]><domain x='&a;'/>",
    ],
    ids=["content", "attribute", "many", "wide", "loop"],
)
def test_entities_that_would_fill_the_memory_are_refused(content: bytes, command: Command) -> None:
    ran = command("xml", stdin=content)
    assert (ran.code, ran.out) == (1, b"")
    assert "entit" in ran.err


@pytest.mark.parametrize(
    "content",
    [
        b"<!--" * 200_000,
        b"<domain>" + b"<!--" * 200_000,
        b"<domain/>" + b"<?" * 300_000,
        b"<domain>" + b"<a b='" * 200_001,
        b"<!DOCTYPE a [" + b"<!" * 300_000,
        b"<!DOCTYPE a [" + b"'\"" * 300_000,
        b"<domain>" + b"&a" * 300_000,
        b"<domain><a></domain>" * 30_000,
    ],
    ids=["comments", "within", "instructions", "quotes", "declarations", "literals", "entities", "tags"],
)
def test_what_never_ends_is_refused_and_not_pondered(content: bytes, command: Command) -> None:
    assert command("xml", stdin=content).code == 1


# --- several


def test_many_documents_are_each_filtered(command: Command) -> None:
    ran = command("xml", stdin=(MINIMAL + b"\n") * 50)
    assert ran.out.count(b"<rng ") == 50
    assert ran.out.count(b"\n") == 50


def test_roots_that_are_one_tag_are_documents(command: Command) -> None:
    ran = command("xml", stdin=b"<domain/><domain type='lxc'/>")
    assert (ran.code, ran.out) == (0, b"<domain/><domain type='lxc'/>")
    assert ran.err.count("a guest without a name: passed through") == 2


@pytest.mark.parametrize("after", [b"\n", b"<!-- end -->", b"\n<?end of it?>\n<!---->", b"\r\n\t"])
def test_what_follows_the_last_one_stays(after: bytes, command: Command) -> None:
    once = command("xml", stdin=MINIMAL)
    ran = command("xml", stdin=MINIMAL + after)
    assert (ran.code, ran.out) == (0, once.out + after)


@pytest.mark.parametrize("codec", ["utf-16-le", "utf-16-be"])
def test_documents_of_wide_letters_need_a_mark_at_the_beginning_alone(codec: str, command: Command) -> None:
    text = MINIMAL.decode()
    content = f"\ufeff{text}\n\n{text}\n\ufeff{text}\n".encode(codec)
    ran = command("xml", stdin=content)
    assert ran.code == 0
    assert ran.out.decode(codec).count("<rng ") == 3
    assert ran.out.decode(codec).count("\ufeff") == 2
