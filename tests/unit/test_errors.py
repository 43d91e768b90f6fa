# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every error is one sentence and one remedy, and none is dead."""

import ast
import re
from functools import cache
from typing import get_type_hints

import pytest

from tests.unit.support import ROOT
from virtrng import errors
from virtrng.errors import ExitCode, VirtrngError

ABSTRACT = {"VirtrngError", "KeyTrouble"}


def _below(root: type[VirtrngError]) -> list[type[VirtrngError]]:
    return [root, *(one for child in root.__subclasses__() for one in _below(child))]


CLASSES = [one for one in _below(VirtrngError) if one.__name__ not in ABSTRACT]
EACH = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: str(kind.__name__))


def sample(kind: type[VirtrngError]) -> VirtrngError:
    """Make one, each field holding its own name, or 7."""
    types = get_type_hints(kind)
    values = {field: 7 if types[field] is int else f"<{field}>" for field in kind.fields}
    return kind(**values)


def test_all_of_the_module_are_seen() -> None:
    there = {name for name, value in vars(errors).items() if isinstance(value, type)}
    tree = {kind.__name__ for kind in CLASSES} | ABSTRACT
    assert there >= tree
    assert {kind for kind in there if issubclass(getattr(errors, kind), Exception)} == tree


def test_codes_are_unique_and_stable_words() -> None:
    codes = [kind.code for kind in CLASSES]
    assert len(set(codes)) == len(codes)
    assert [code for code in codes if not re.fullmatch(r"[a-z]+(-[a-z]+)*", code)] == []
    assert "error" not in codes


@EACH
def test_it_has_a_sentence_and_a_remedy_of_its_own_fields(kind: type[VirtrngError]) -> None:
    trouble = sample(kind)
    for text in (str(trouble), trouble.remedy):
        assert text
        assert "{" not in text
        assert not text.endswith(".")
    both = str(trouble) + trouble.remedy
    for field in kind.fields:
        assert str(getattr(trouble, field)) in both, f"{field} is told to nobody"


@EACH
def test_it_begins_in_lower_case(kind: type[VirtrngError]) -> None:
    for template in (kind.sentence, kind.hint):
        assert not template[0].isupper()


@EACH
def test_it_has_an_exit_code(kind: type[VirtrngError]) -> None:
    assert isinstance(kind.exit_code, ExitCode)
    assert kind.exit_code not in (ExitCode.DONE, ExitCode.SOME_FAILED)


@pytest.mark.parametrize("arguments", [("a", "b", "c", "d"), ("a",), ()])
def test_the_number_of_its_fields_counts(arguments: tuple[str, ...]) -> None:
    with pytest.raises(TypeError, match=r"^FileFailed (has|lacks) "):
        errors.FileFailed(*arguments)


def test_its_fields_have_names() -> None:
    trouble = errors.KeyInUse("k", holder="h")
    assert (trouble.key, trouble.holder) == ("k", "h")
    assert trouble.remedy == errors.KeyInUse.way_out
    with pytest.raises(TypeError, match=r"^KeyInUse has the fields key, holder, way_out$"):
        errors.KeyInUse("k", "h", who="w")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^KeyInUse has the fields"):
        errors.KeyInUse("k", "h", key="k")  # type: ignore[misc]


def test_fields_with_braces_are_printed_as_they_are() -> None:
    trouble = errors.ConfigError("f", "a", "{0.b}", "{}")
    assert str(trouble) == "f: a is {0.b}"
    assert trouble.remedy == "allowed: {}"


@EACH
def test_it_is_an_exception_that_can_be_raised_and_compared(kind: type[VirtrngError]) -> None:
    trouble = sample(kind)
    with pytest.raises(kind) as caught:
        raise trouble
    assert caught.value is trouble
    assert sample(kind) != trouble


@cache
def _named_outside_imports() -> set[str]:
    """Return the names that the code uses, other than in import statements and annotations, errors aside."""
    names = set()
    for file in sorted((ROOT / "virtrng").rglob("*.py")):
        if file.parent.name == "errors":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                names.add(node.func.id)
            elif isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name):
                names.add(node.exc.id)
    return names


@EACH
def test_it_is_raised_somewhere(kind: type[VirtrngError]) -> None:
    assert kind.__name__ in _named_outside_imports()


@cache
def _words_of_tests() -> set[str]:
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return {
        word
        for file in files
        if file.name != "test_errors.py"
        for word in re.findall(r"\w+", file.read_text())
    }


@EACH
def test_some_test_brings_it_about(kind: type[VirtrngError]) -> None:
    assert kind.__name__ in _words_of_tests(), "no test names it"
