# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook as a file of libvirt's, and who could change what it runs."""

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.support import NOBODY, ROOT, in_child, is_root
from virtrng.domain import hookfile
from virtrng.errors import ExitCode, FileFailed, ForeignHook, UnsafeHook

TEMPLATE = ROOT / "hooks" / "qemu"


@pytest.fixture
def content() -> bytes:
    return hookfile.rendered(TEMPLATE, ROOT, Path("/etc/virtrng/virtrng.toml"))


@pytest.mark.parametrize("path", ["/usr/lib/x", "/a b/'c'", "/$(id)`id`", '/"x"\\n'])
def test_the_two_paths_are_filled_in_for_the_shell(path: str) -> None:
    content = hookfile.rendered(TEMPLATE, Path(path), Path(path + ".toml"))
    (package,) = [line for line in content.splitlines() if line.startswith(b"package=")]
    (config,) = [line for line in content.splitlines() if line.startswith(b"config=")]
    script = b'%s\n%s\nprintf "%%s|%%s" "$package" "$config"' % (package, config)
    run = subprocess.run(["/bin/sh", "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == f"{path}|{path}.toml"
    changed = [
        a for a, b in zip(content.splitlines(), TEMPLATE.read_bytes().splitlines(), strict=True) if a != b
    ]
    assert changed == [package, config]


def test_the_shell_takes_it(content: bytes) -> None:
    run = subprocess.run(["/bin/sh", "-n"], input=content, capture_output=True, check=False)
    assert (run.returncode, run.stderr) == (0, b"")


def test_a_template_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileFailed, match=r"cannot read .*none: No such file or directory"):
        hookfile.rendered(tmp_path / "none", ROOT, ROOT)


def test_installing_twice_changes_nothing(tmp_path: Path, content: bytes) -> None:
    hooks = tmp_path / "hooks"
    assert hookfile.differs(hooks, content) is True
    assert hookfile.present(hooks) is False
    assert hookfile.install(hooks, content) is True
    file = hookfile.destination(hooks)
    assert file == hooks / "qemu.d" / "virtrng"
    assert file.read_bytes() == content
    assert stat.S_IMODE(file.stat().st_mode) == 0o755
    before = file.stat()
    assert hookfile.differs(hooks, content) is False
    assert hookfile.install(hooks, content) is False
    assert file.stat().st_ino == before.st_ino
    assert [path.name for path in sorted(hooks.rglob("*"))] == ["qemu.d", "virtrng"]


def test_libvirt_never_finds_half_a_hook(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    rename = os.replace

    def replace(source: str, target: Path) -> None:
        seen.append([path.name for path in target.parent.iterdir()])
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)
    hookfile.install(tmp_path, content + b"# older\n")
    hookfile.install(tmp_path, content)
    assert seen == [[], ["virtrng"]], "it runs whatever is executable there"


@pytest.mark.parametrize("change", ["content", "mode"])
def test_an_older_one_is_brought_up_to_date(change: str, tmp_path: Path, content: bytes) -> None:
    hookfile.install(tmp_path, content)
    file = hookfile.destination(tmp_path)
    if change == "content":
        file.write_bytes(content + b"# older\n")
    else:
        file.chmod(0o644)
    assert hookfile.differs(tmp_path, content)
    assert hookfile.install(tmp_path, content) is True
    assert file.read_bytes() == content
    assert os.access(file, os.X_OK)


def test_a_file_of_somebody_elses_is_left_alone(tmp_path: Path, content: bytes) -> None:
    file = hookfile.destination(tmp_path)
    file.parent.mkdir()
    file.write_text("#!/bin/sh\n# not ours\n")
    file.chmod(0o755)
    acts: list[Callable[[], bool]] = [
        lambda: hookfile.install(tmp_path, content),
        lambda: hookfile.uninstall(tmp_path),
        lambda: hookfile.differs(tmp_path, content),
        lambda: hookfile.present(tmp_path),
    ]
    for act in acts:
        with pytest.raises(ForeignHook) as caught:
            act()
        assert str(caught.value) == f"{file} exists and was not written by virtrng"
    assert file.read_text() == "#!/bin/sh\n# not ours\n"


def test_other_hooks_are_listed_and_stay(tmp_path: Path, content: bytes) -> None:
    assert hookfile.others(tmp_path) == []
    directory = tmp_path / "qemu.d"
    directory.mkdir()
    for file, mode in ((tmp_path / "qemu", 0o755), (directory / "b", 0o700), (directory / "a", 0o755),
                       (directory / "plain", 0o644)):  # fmt: skip
        file.write_text("#!/bin/sh\n")
        file.chmod(mode)
    (directory / "folder").mkdir()
    hookfile.install(tmp_path, content)
    others = [tmp_path / "qemu", directory / "a", directory / "b"]
    assert hookfile.others(tmp_path) == others
    assert hookfile.uninstall(tmp_path) is True
    assert hookfile.uninstall(tmp_path) is False
    assert hookfile.others(tmp_path) == others
    assert len([*directory.iterdir()]) == 4


def test_what_cannot_be_read_or_made(tmp_path: Path, content: bytes) -> None:
    hookfile.destination(tmp_path).mkdir(parents=True)
    with pytest.raises(FileFailed, match=r"cannot read .*qemu.d/virtrng: Is a directory"):
        hookfile.install(tmp_path, content)
    (tmp_path / "plain").write_text("")
    with pytest.raises(FileFailed, match="Not a directory"):
        hookfile.install(tmp_path / "plain", content)


def test_a_symlink_in_its_place_is_not_followed(tmp_path: Path, content: bytes) -> None:
    file = hookfile.destination(tmp_path)
    file.parent.mkdir()
    file.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileFailed, match="it is not a regular file"):
        hookfile.install(tmp_path, content)
    assert not (tmp_path / "nowhere").exists()


def test_an_ordinary_user_is_told(open_path: Path, content: bytes) -> None:
    hooks = open_path / "hooks"
    hooks.mkdir(mode=0o755)
    if is_root():
        said = in_child(lambda: hookfile.install(hooks, content), nobody=True)
        assert said == f"FileFailed: cannot make {hooks}/qemu.d: Permission denied"
    hookfile.install(hooks, content)
    (hooks / "qemu.d").chmod(0o555)
    said = in_child(lambda: hookfile.uninstall(hooks), nobody=True)
    (hooks / "qemu.d").chmod(0o755)
    assert said == f"FileFailed: cannot remove {hooks}/qemu.d/virtrng: Permission denied"


# --- who could change what it runs


def judged(*paths: Path) -> str:
    """Return the path that is found unsafe, or nothing."""
    try:
        hookfile.check_safe(*paths)
    except UnsafeHook as trouble:
        return trouble.file
    return ""


@pytest.fixture
def safe(open_path: Path) -> Path:
    """Give a file that only root can change, where root runs the tests; nobody's file, elsewhere."""
    open_path.chmod(0o755)
    file = open_path / "a" / "b" / "file"
    file.parent.mkdir(parents=True, mode=0o755)
    file.write_text("")
    file.chmod(0o644)
    return file


def test_what_root_alone_can_change_is_safe() -> None:
    assert judged(Path("/usr/bin/python3"), Path("/etc/passwd"), Path("/etc/virtrng/nonesuch.toml")) == ""


def test_what_a_user_owns_is_not(safe: Path) -> None:
    if not is_root():
        assert judged(safe) == str(safe)
        return
    assert judged(safe) == ""
    for part in (safe, safe.parent, safe.parent.parent):
        os.chown(part, NOBODY, -1)
        assert judged(safe) == str(part)
        os.chown(part, 0, -1)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_what_others_can_write_is_not(mode: int, safe: Path) -> None:
    safe.chmod(mode)
    assert judged(safe) == str(safe)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_nor_below_a_directory_that_others_can_write(mode: int, safe: Path) -> None:
    safe.parent.parent.chmod(mode)
    expected = safe.parent.parent if is_root() else safe
    assert judged(safe) == str(expected)


def test_in_a_sticky_directory_what_is_there_is_safe_and_what_is_not_is_not(safe: Path) -> None:
    if not is_root():
        assert judged(safe) == str(safe)
        return
    safe.parent.chmod(0o1777)
    assert judged(safe) == ""
    assert judged(safe.parent / "none") == str(safe.parent)
    assert judged(safe.parent / "none" / "below") == str(safe.parent)


def test_a_symlink_is_no_way_around(safe: Path, open_path: Path) -> None:
    theirs = open_path / "theirs"
    theirs.mkdir()
    link = theirs / "link"
    link.symlink_to(safe)
    if not is_root():
        assert judged(link) == str(safe)
        return
    theirs.chmod(0o755)
    assert judged(link) == ""
    os.lchown(link, NOBODY, -1)
    assert judged(link) == str(link)
    os.lchown(link, 0, -1)
    os.chown(theirs, NOBODY, -1)
    assert judged(link) == str(theirs), "whoever owns the directory can make another link"
    safe.chmod(0o666)
    assert judged(link) == str(safe)


def test_the_refusal_says_what_can_be_done(safe: Path) -> None:
    safe.chmod(0o666)
    with pytest.raises(UnsafeHook) as caught:
        hookfile.check_safe(safe)
    assert (
        str(caught.value) == f"{safe} can be written by others than root, and the hook would run it as root"
    )
    assert "--hooks-dir" in caught.value.remedy
    assert caught.value.exit_code is ExitCode.REFUSED
