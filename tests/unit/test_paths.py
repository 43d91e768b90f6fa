# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where our own files lie, in a checkout and when installed."""

from pathlib import Path

import pytest

from tests.unit.support import ROOT
from virtrng import paths


def test_a_checkout_has_them_beside_the_package() -> None:
    assert paths.PACKAGE == ROOT / "virtrng"
    assert paths.data_file("hooks/qemu") == ROOT / "hooks" / "qemu"
    assert paths.data_file("templates").is_dir()


@pytest.mark.parametrize("library", ["lib/python3/dist-packages", "local/lib/python3.11/dist-packages"])
def test_an_installation_has_them_under_share(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "usr" / library / "virtrng"
    prefix = tmp_path / "usr" / ("local" if library.startswith("local") else "")
    file = prefix / "share" / "virtrng" / "hooks" / "qemu"
    file.parent.mkdir(parents=True)
    file.write_text("")
    monkeypatch.setattr(paths, "PACKAGE", package)
    assert paths.data_file("hooks/qemu") == file


def test_what_is_nowhere_is_said_to_be_beside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "virtrng")
    assert paths.data_file("no/such") == tmp_path / "no/such"
