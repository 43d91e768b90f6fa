# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a guest needs to run this tree on USB keys: Python, libusb, udevd, as a guest image's 'extra'.

Nothing is built. Python's modules go in as the byte code that Debian compiled when it installed them (import
takes a lone .pyc for what it is), the tree's own as source, so that tracebacks show it. Programs bring their
shared libraries along.
"""

import importlib.util
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

from tests.lab.images import LabError, unpacked

TREE = Path(__file__).resolve().parents[2]
GUEST_TREE = "/opt/virtrng"
GUEST_PYTHON = "/usr/bin/python3"
GUEST_UDEVD = "/usr/lib/systemd/systemd-udevd"
GUEST_USBIP = "/bin/usbip"
# Before any of it: an ld.so.cache, in which find_library() looks libusb and libudev up, and udevd running.
# What stays must not keep the console.
PREPARE = f"/sbin/ldconfig && mkdir -p /run/udev && {GUEST_UDEVD} --daemon >/dev/null 2>&1"
LIBRARIES = ("libusb-1.0.so.0", "libudev.so.1")
PACKAGES = ("usb", "pyudev", "six", "systemd")
# Large, and of no use to a daemon.
LEFT_OUT = {
    "asyncio", "curses", "dbm", "distutils", "email", "ensurepip", "html", "http", "idlelib", "lib2to3",
    "lib-dynload", "multiprocessing", "pydoc_data", "sqlite3", "test", "tkinter", "turtledemo", "unittest",
    "venv", "wsgiref", "xml", "xmlrpc", "zoneinfo",
}  # fmt: skip
EXTENSIONS = ("_contextvars", "_ctypes", "_hashlib", "_json", "_queue", "mmap", "resource", "termios")
Files = dict[str, Path]


def usb_payload() -> Files:
    """Return what runs 'python3 -m virtrng' in GUEST_TREE, after PREPARE."""
    tree = [*TREE.glob("virtrng/**/*.py"), *TREE.glob("tests/lab/usb*.py")]
    return (
        _python()
        | _libraries()
        | _udevd()
        | _with_libraries(unpacked("usbip") / "usr/sbin/usbip", GUEST_USBIP)
        | {f"{GUEST_TREE}/{path.relative_to(TREE)}": path for path in tree}
    )


def _python() -> Files:
    stdlib = Path(sysconfig.get_path("stdlib"))
    modules = (path for path in stdlib.rglob("*.py") if path.relative_to(stdlib).parts[0] not in LEFT_OUT)
    files = _with_libraries(Path(sys.executable), GUEST_PYTHON) | _byte_code(modules)
    for name in EXTENSIONS:
        extension = stdlib / "lib-dynload" / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
        # Which of them are in the interpreter itself differs by its version.
        files |= _with_libraries(extension) if extension.exists() else {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise LabError(f"no package {name}: apt-get install python3-usb python3-pyudev python3-systemd")
        origin = Path(spec.origin)
        for extension in origin.parent.glob("_daemon.*.so"):  # python3-systemd's, all of it that we use
            files |= _with_libraries(extension)
        files |= _byte_code(origin.parent.rglob("*.py") if origin.stem == "__init__" else [origin])
    return files


def _byte_code(modules: Iterable[Path]) -> Files:
    compiled = {module: Path(importlib.util.cache_from_source(str(module))) for module in modules}
    return {
        str(module.with_suffix(".pyc") if cached.exists() else module): cached if cached.exists() else module
        for module, cached in compiled.items()
    }


def _libraries() -> Files:
    files = {"/sbin/ldconfig": Path("/sbin/ldconfig")}
    known = _run("/sbin/ldconfig", "-p")
    for soname in LIBRARIES:
        found = re.search(rf"^\t{re.escape(soname)} .*x86-64.* => (\S+)$", known, re.MULTILINE)
        if not found:
            raise LabError(f"ldconfig knows no {soname}: apt-get install python3-usb python3-pyudev")
        files |= _with_libraries(Path(found.group(1)))
    return files | {"/etc/ld.so.conf": Path("/etc/ld.so.conf.d/x86_64-linux-gnu.conf")}


def _udevd() -> Files:
    """Return udevd, with no rule: libusb hears only from it that a device was plugged in."""
    return _with_libraries(unpacked("udev") / "bin/udevadm", GUEST_UDEVD)


def _with_libraries(program: Path, name: str = "") -> Files:
    """Return a program or library, under 'name' if that is given, and all that the dynamic linker adds."""
    linked = _run("ldd", str(program))
    if "not found" in linked:
        raise LabError(f"{program} misses a library:\n{linked}")
    # NAME => PATH (ADDRESS), and the dynamic linker itself as PATH (ADDRESS)
    needed = re.findall(r"(/\S+) \(0x", linked)
    return {name or str(program): program, **{path: Path(path) for path in needed}}


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
