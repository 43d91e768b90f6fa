# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the lab boots: Debian's own kernel and a guest of a few files, made once and kept in the cache.

Nothing is installed: packages are fetched with 'apt-get download' and unpacked. What is in the cache under
its final name is complete (everything is made under a '.partial-' name and renamed, one maker at a time), so
that a run can be interrupted anywhere, two can run at once, and a warm cache needs no network.
"""

import fcntl
import hashlib
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KERNEL_METAPACKAGE = "linux-image-amd64"
# virtio_console is for guest agents, button and evdev are how ACPI says "power off".
GUEST_MODULES = ("virtio_pci", "virtio_rng", "virtio_console", "button", "evdev")
# A USB host controller whose devices come over a socket (USB/IP), and the driver that binds an Entropy Key.
USB_MODULES = ("vhci_hcd", "cdc_acm")
# The kernel package is fetched once, and what no guest of ours ever loads is thrown away.
KEPT_MODULES = GUEST_MODULES + USB_MODULES
GUEST_INIT = Path(__file__).with_name("guest-init")
KERNEL_FORMAT = "elf"
XZ_MAGIC = b"\xfd7zXZ\0"
PAGE_BYTES = 4096
INITRD_KEPT_S = 24 * 3600.0
NO_EXTRA_FILES: Mapping[str, Path] = {}
_making = threading.Lock()


class LabError(RuntimeError):
    """The lab cannot do what it was asked; the text says why, and what would help."""


@dataclass(frozen=True, slots=True)
class GuestImage:
    """A kernel and the initramfs made for it."""

    kernel: Path
    initrd: Path
    release: str


def cache_dir() -> Path:
    """Return where images and unpacked packages are kept: $VIRTRNG_CACHE, or the tree's ignored .cache."""
    chosen = os.environ.get("VIRTRNG_CACHE")
    return Path(chosen).absolute() if chosen else Path(__file__).resolve().parents[2] / ".cache"


def guest_image(
    extra: Mapping[str, Path] = NO_EXTRA_FILES, modules: tuple[str, ...] = GUEST_MODULES
) -> GuestImage:
    """Return the two-second guest, made first where the cache has none.

    'extra' puts further files into the guest: path there to file here, permissions kept. It loads 'modules',
    some of KEPT_MODULES, and what these need. The initramfs is named after a digest of its content, so any
    change to what goes into it makes another; one that nobody asked for in a day is removed by the next.
    """
    kernel = _kernel()
    release = (kernel / "release").read_text()
    archive = _initramfs(kernel, unpacked("busybox-static") / "bin/busybox", modules, extra)
    digest = hashlib.sha256(archive).hexdigest()[:16]
    initrd = _once(f"initrd-{release}-{digest}", lambda work: _write_initrd(work / "initrd.cpio", archive))
    os.utime(initrd)
    return GuestImage(kernel / "kernel", initrd / "initrd.cpio", release)


def unpacked(package: str) -> Path:
    """Return the directory with the files of a Debian package, fetched and unpacked, never installed."""
    kept = _newest(f"{package}_*")
    if kept:
        return kept
    version = _apt_field(package, "Version").replace(":", "%3a")
    return _once(f"{package}_{version}", lambda work: _fetch_and_unpack(package, work))


def _kernel() -> Path:
    """Return the directory with kernel, release, modules/ and modules.builtin."""
    # Another list of modules, or another way to build, wants another directory: the rest was thrown away.
    key = hashlib.sha256(" ".join((KERNEL_FORMAT, *KEPT_MODULES)).encode()).hexdigest()[:8]
    kept = _newest(f"kernel-{key}-*")
    if kept:
        return kept
    depends = _apt_field(KERNEL_METAPACKAGE, "Depends")
    found = re.search(r"\blinux-image-\S+", depends)
    if not found:
        raise LabError(f"{KERNEL_METAPACKAGE} depends on no kernel: {depends!r}")
    package = found.group()
    version = _apt_field(package, "Version")
    return _once(f"kernel-{key}-{package}_{version}", lambda work: _build_kernel(package, work))


def _build_kernel(package: str, work: Path) -> None:
    whole = work / "whole"
    whole.mkdir()
    _fetch_and_unpack(package, whole)
    (vmlinuz,) = whole.glob("boot/vmlinuz-*")
    release = vmlinuz.name.removeprefix("vmlinuz-")
    _write_sparse(work / "kernel", _uncompressed(vmlinuz.read_bytes()))
    (work / "release").write_text(release)
    (work / "modules").mkdir()
    # /lib on Debian 12, /usr/lib since the packages were moved there.
    (tree,) = (path for path in whole.glob("**/lib/modules/*") if path.name == release)
    for name, content in _in_load_order(tree, KEPT_MODULES):
        (work / "modules" / f"{name}.ko").write_bytes(content)
    shutil.copy(tree / "modules.builtin", work)
    shutil.rmtree(whole)


def _uncompressed(vmlinuz: bytes) -> bytes:
    """Return the ELF kernel in a bzImage, which QEMU starts through its PVH entry; else the bzImage itself.

    Under emulation the guest takes 3 s to unpack itself, at every boot. Offsets: kernel,
    Documentation/x86/boot.rst (setup_sects, payload_offset).
    """
    code = (vmlinuz[0x1F1] + 1) * 512
    payload = vmlinuz[code + int.from_bytes(vmlinuz[0x248:0x24C], "little") :]
    if not payload.startswith(XZ_MAGIC):
        return vmlinuz
    # A decompressor object, since the size is appended to the xz stream.
    return lzma.LZMADecompressor().decompress(payload)


def _write_sparse(path: Path, content: bytes) -> None:
    """Write a file with holes for its pages of zeros: half of an ELF kernel."""
    with path.open("wb") as file:
        for start in range(0, len(content), PAGE_BYTES):
            page = content[start : start + PAGE_BYTES]
            if any(page):
                file.seek(start)
                file.write(page)
        file.truncate(len(content))


def _in_load_order(tree: Path, wanted: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the modules wanted and of all that they need, a needed one before its user.

    The package holds no modules.dep (its installation would make that), so each module's own list is read.
    """
    modules = {_module_name(path): path for path in tree.rglob("*.ko*")}
    builtin = {_module_name(Path(line)) for line in (tree / "modules.builtin").read_text().split()}
    done: set[str] = set()

    def load(name: str) -> Iterator[tuple[str, bytes]]:
        if name in done or name in builtin:
            return
        if name not in modules:
            raise LabError(f"no module {name}, neither built in nor as a file below {tree}")
        done.add(name)
        content = _module_content(modules[name])
        for needed in _module_depends(content):
            yield from load(needed)
        yield name, content

    for name in wanted:
        yield from load(name)


def _module_name(path: Path) -> str:
    """Return a module's name as lsmod has it: file names mix '-' and '_'."""
    return path.name.partition(".")[0].replace("-", "_")


def _module_content(path: Path) -> bytes:
    content = path.read_bytes()
    # Plain on Debian 12; Debian 13 compresses them, which busybox's insmod would not undo.
    return lzma.decompress(content) if path.suffix == ".xz" else content


def _module_depends(content: bytes) -> list[str]:
    """Return what a module's .modinfo section says it needs (modpost writes 'depends=a,b' there)."""
    found = re.search(rb"\0depends=([^\0]*)\0", content)
    names = found.group(1).decode().split(",") if found else []
    return [name.replace("-", "_") for name in names if name]


def _initramfs(kernel: Path, busybox: Path, modules: tuple[str, ...], extra: Mapping[str, Path]) -> bytes:
    # Not compressed: under emulation, unpacking costs more than reading.
    files = {"init": (0o755, GUEST_INIT.read_bytes()), "bin/busybox": (0o755, busybox.read_bytes())}
    for number, (module, content) in enumerate(_in_load_order(kernel, modules)):
        files[f"modules/{number:02}-{module}.ko"] = (0o644, content)
    for name, path in extra.items():
        files[name.lstrip("/")] = (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
    directories = {str(parent) for name in files for parent in Path(name).parents} - {"."}
    # Without /dev/console the kernel starts init with no stdin, stdout or stderr.
    archive = b"".join(_cpio(name, stat.S_IFDIR | 0o755) for name in sorted(directories | {"dev"}))
    archive += _cpio("dev/console", stat.S_IFCHR | 0o600, rdev=(5, 1))
    archive += b"".join(_cpio(name, stat.S_IFREG | mode, content) for name, (mode, content) in files.items())
    return archive + _cpio("TRAILER!!!", 0)


def _cpio(name: str, mode: int, content: bytes = b"", *, rdev: tuple[int, int] = (0, 0)) -> bytes:
    """Return one entry of a 'newc' archive (kernel, early-userspace/buffer-format.rst)."""
    encoded = name.encode() + b"\0"
    # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
    fields = (0, mode, 0, 0, 1, 0, len(content), 0, 0, *rdev, len(encoded), 0)
    header = b"070701" + b"".join(b"%08x" % field for field in fields) + encoded
    return _padded(header) + _padded(content)


def _padded(block: bytes) -> bytes:
    return block + bytes(-len(block) % 4)


def _write_initrd(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    # Those with parts of the tree in them are many and large.
    for other in _lab_cache().glob("initrd-*"):
        if time.time() - other.stat().st_mtime > INITRD_KEPT_S:
            shutil.rmtree(other, ignore_errors=True)


def _newest(pattern: str) -> Path | None:
    """Return the newest complete entry of the cache that matches: with one there, apt is not asked at all."""
    found = sorted(_lab_cache().glob(pattern), key=lambda path: path.stat().st_mtime)
    return found[-1] if found else None


def _lab_cache() -> Path:
    directory = cache_dir() / "lab"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _once(name: str, build: Callable[[Path], None]) -> Path:
    """Return the cache's entry 'name', built where it is missing; it appears complete or not at all."""
    target = _lab_cache() / name
    if target.exists():
        return target
    with _locked():
        if target.exists():  # made while we waited for the lock
            return target
        for abandoned in target.parent.glob(".partial-*"):  # whoever made it is dead: we hold the lock
            shutil.rmtree(abandoned, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=target.parent) as partial:
            work = Path(partial) / "work"
            work.mkdir()
            build(work)
            work.rename(target)
    return target


@contextmanager
def _locked() -> Iterator[None]:
    """Hold the cache's lock. Whoever asks for it while holding it would wait for ever, and is refused."""
    if not _making.acquire(blocking=False):
        raise LabError("an entry of the cache asked for another while it was being made: ask for that before")
    try:
        with (_lab_cache() / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
    finally:
        _making.release()


def _fetch_and_unpack(package: str, into: Path) -> None:
    size_mib = int(_apt_field(package, "Size")) / 2**20
    _say(f"fetching {package} ({size_mib:.2f} MiB) into {cache_dir()}")
    with tempfile.TemporaryDirectory(prefix="deb-", dir=into.parent) as deb_dir:
        try:
            _apt("apt-get", "download", package, cwd=Path(deb_dir))
        except LabError:
            # An old list names files that the mirror has since replaced.
            _update_apt_lists()
            _apt("apt-get", "download", package, cwd=Path(deb_dir))
        (deb,) = Path(deb_dir).glob("*.deb")
        _run("dpkg", "-x", str(deb), str(into))


def _apt_field(package: str, field: str) -> str:
    if not any(Path("/var/lib/apt/lists").glob("*_Packages*")):
        _update_apt_lists()
    record = _apt("apt-cache", "show", "--no-all-versions", package)
    found = re.search(rf"^{field}: (.*)$", record, re.MULTILINE)
    if not found:
        raise LabError(f"apt knows no {field} of {package}")
    return found.group(1)


def _update_apt_lists() -> None:
    _say("fetching apt's package lists (apt-get update)")
    _apt("apt-get", "update")


def _apt(program: str, *arguments: str, cwd: Path | None = None) -> str:
    # As root, apt would change to a user that cannot write to our directory, and warn.
    return _run(program, "-q", "-o", "APT::Sandbox::User=root", *arguments, cwd=cwd)


def _run(*command: str, cwd: Path | None = None) -> str:
    """Return what a command printed; it dies with us, and as root so do its own children."""
    bound = ["setpriv", "--pdeathsig=KILL"]
    if os.geteuid() == 0:
        bound += ["unshare", "--pid", "--fork", "--kill-child"]
    done = subprocess.run(
        [*bound, *command],
        cwd=cwd,
        env=os.environ | {"LC_ALL": "C"},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise LabError(f"'{' '.join(command)}' failed: {done.stderr.strip()}")
    return done.stdout


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
