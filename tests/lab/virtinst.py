# SPDX-License-Identifier: LGPL-2.1-or-later
"""virt-install and virt-xml out of Debian's packages, unpacked and not installed."""

import os
import sys

from tests.lab.host import LabHost
from tests.lab.images import cache_dir, unpacked

# They, and what of their dependencies a machine may not have.
PACKAGES = (
    "virtinst", "python3-libxml2", "python3-gi", "python3-requests", "python3-urllib3", "python3-chardet",
    "python3-idna", "python3-certifi", "python3-six", "gir1.2-libosinfo-1.0", "gir1.2-freedesktop",
    "gir1.2-glib-2.0", "libosinfo-1.0-0", "libsoup-3.0-0", "libgirepository-1.0-1", "osinfo-db",
)  # fmt: skip


# Where there is a database of systems, libosinfo insists on these, at this place: empty ones will do.
WITH_IDS = """\
mount -t tmpfs tmpfs /usr/share/misc
: >/usr/share/misc/pci.ids
: >/usr/share/misc/usb.ids
exec "$@"
"""


def virt_install(host: LabHost, *arguments: str) -> list[str]:
    """Return the command line of virt-install against a host, to be run in `environment()`.

    It has a mount namespace of its own, made from the host's: none of its mounts is seen elsewhere.
    """
    shell = ("unshare", "--mount", "--propagation=unchanged", "sh", "-e", "-c", WITH_IDS, "sh")
    return host.inside(*shell, *_line("virtinstall", host, *arguments))


def virt_xml(host: LabHost, *arguments: str) -> list[str]:
    """Return the command line of virt-xml against a host, to be run in `environment()`."""
    return _line("virtxml", host, *arguments)


def _line(module: str, host: LabHost, *arguments: str) -> list[str]:
    code = f"from virtinst import {module}; {module}.runcli()"
    return [sys.executable, "-c", code, "--connect", host.uri, *arguments]


def environment() -> dict[str, str]:
    """Return the environment in which they find what was unpacked for them."""
    roots = [unpacked(package) for package in PACKAGES]
    python = [
        root / part for root in roots for part in ("usr/share/virt-manager", "usr/lib/python3/dist-packages")
    ]
    libraries = [library for root in roots for library in root.glob("usr/lib/*-linux-gnu")]
    return os.environ | {
        "PYTHONPATH": ":".join(str(path) for path in python if path.is_dir()),
        "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
        "GI_TYPELIB_PATH": ":".join(str(library / "girepository-1.0") for library in libraries),
        "XDG_CACHE_HOME": str(cache_dir()),  # where they put their logs
        "OSINFO_LOCAL_DIR": str(unpacked("osinfo-db") / "usr/share/osinfo"),
    }
