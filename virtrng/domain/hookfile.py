# SPDX-License-Identifier: LGPL-2.1-or-later
"""The hook as a file of libvirt's: put there, taken away, looked at.

It is a real file beside whatever hooks there are: AppArmor lets libvirtd run
only what lies in its hooks directory, so a symlink would not do.
"""

import os
import shlex
import stat
from collections.abc import Sequence
from pathlib import Path

from virtrng.errors import FileFailed, ForeignHook, UnsafeHook
from virtrng.files import replacing

DEFAULT_HOOKS_DIR = Path("/etc/libvirt/hooks")
_OURS = b"# virtrng: what libvirt runs"

# What editors and package managers leave beside a file, with its mode: libvirt knows no names that it
# would pass over (9.0 and 11.3, src/util/virhook.c:virHookCall).
_BACKUPS = (
    "~", ".bak", ".old", ".orig", ".save", ".swp", ".rpmsave", ".rpmnew", ".rpmorig", ".dpkg-old",
    ".dpkg-new", ".dpkg-dist", ".dpkg-bak", ".dpkg-tmp", ".ucf-old", ".ucf-new", ".ucf-dist",
)  # fmt: skip


def destination(hooks_dir: Path) -> Path:
    """Return where our hook goes; libvirt runs the executables of qemu.d since 6.5."""
    return hooks_dir / "qemu.d" / "virtrng"


def is_ours(file: Path) -> bool:
    """Whether `file` was written by us; raises FileFailed when it is there and cannot be read."""
    try:
        return _OURS in file.read_bytes()[:400]
    except FileNotFoundError:
        return False
    except OSError as error:
        raise FileFailed(str(file), "read", error.strerror or str(error)) from error


def rendered(template: Path, package_dir: Path, config_file: Path) -> bytes:
    """Return the hook with the two paths filled in."""
    try:
        content = template.read_bytes()
    except OSError as error:
        raise FileFailed(str(template), "read", error.strerror or str(error)) from error
    for name, path in (("package", package_dir), ("config", config_file)):
        content = content.replace(
            f"\n{name}=''\n".encode(), f"\n{name}={shlex.quote(str(path))}\n".encode(), 1
        )
    return content


def differs(hooks_dir: Path, content: bytes) -> bool:
    """Whether `install` would change anything. Raises ForeignHook or FileFailed."""
    file = destination(hooks_dir)
    return not present(hooks_dir) or file.read_bytes() != content or not is_run(file)


def present(hooks_dir: Path) -> bool:
    """Whether our hook is there. Raises ForeignHook or FileFailed."""
    file = destination(hooks_dir)
    if is_ours(file):
        return True
    if file.exists():
        raise ForeignHook(str(file))
    return False


def install(hooks_dir: Path, content: bytes) -> bool:
    """Put `content` in place; return whether anything changed. Raises ForeignHook or FileFailed."""
    file = destination(hooks_dir)
    if not differs(hooks_dir, content):
        return False
    try:
        file.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise FileFailed(str(file.parent), "make", error.strerror or str(error)) from error
    here = since(file)
    # libvirt runs every executable of qemu.d, one that is being written too: it is written beside it.
    with replacing(file, 0o755, temporary_dir=hooks_dir) as new:
        new.write(content)
        new.flush()
        if here is not None:
            os.utime(new.fileno(), (here, here))
    return True


def uninstall(hooks_dir: Path) -> bool:
    """Remove our hook; return whether it was there. Raises ForeignHook or FileFailed."""
    file = destination(hooks_dir)
    if not present(hooks_dir):
        return False
    try:
        file.unlink()
    except OSError as error:
        raise FileFailed(str(file), "remove", error.strerror or str(error)) from error
    return True


def others(hooks_dir: Path) -> list[Path]:
    """List the other qemu hooks there, which libvirt runs too: in its order, backups included."""
    candidates = [hooks_dir / "qemu", *sorted(destination(hooks_dir).parent.glob("*"))]
    return [file for file in candidates if file != destination(hooks_dir) and is_run(file)]


def backups(hooks_dir: Path) -> list[Path]:
    """List those of the others that look like what an editor or a package manager has left."""
    return [file for file in others(hooks_dir) if file.name.startswith(".") or file.name.endswith(_BACKUPS)]


def is_run(file: Path) -> bool:
    """Whether libvirt runs it: a file, or a link to one, that anyone may execute."""
    try:
        found = file.stat()
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and bool(found.st_mode & 0o111)


def since(file: Path) -> float | None:
    """Return from when on libvirt ran our hook, in Unix seconds: an update keeps its time. None: never."""
    return file.stat().st_mtime if is_run(file) else None


def all_since(hooks_dir: Path) -> list[float]:
    """Return from when on libvirt ran each qemu hook that is there, in Unix seconds."""
    ours = since(destination(hooks_dir))
    theirs = [file.stat().st_ctime for file in others(hooks_dir)]
    return theirs if ours is None else [ours, *theirs]


def check_safe(*paths: Path) -> None:
    """Raise UnsafeHook if anyone but root can change one of `paths`, or a directory above it."""
    for path in paths:
        # As it is written too: whoever owns a symlink in it can point it elsewhere.
        for way in (path.resolve(), path.absolute()):
            _check_all((way, *way.parents))


def _check_all(upwards: Sequence[Path]) -> None:
    """Check a path and what is above it; in a sticky directory others make files, and change none of ours."""
    below_exists = False
    for part in upwards:
        try:
            found = part.lstat()
        except FileNotFoundError:  # not there yet: whoever makes it can write to its parent
            continue
        except OSError as error:
            raise FileFailed(str(part), "look at", error.strerror or str(error)) from error
        sticky = below_exists and found.st_mode & stat.S_ISVTX
        writable = found.st_mode & 0o022 and not stat.S_ISLNK(found.st_mode)
        if found.st_uid != 0 or (writable and not sticky):
            raise UnsafeHook(str(part))
        below_exists = True
