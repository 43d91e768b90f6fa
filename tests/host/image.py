# SPDX-License-Identifier: LGPL-2.1-or-later
"""The Debian that tests/host boots: systemd, udev, libvirt, what virtrng imports. Made once, and kept.

It holds nothing of the tree, so that it does not age with it: that comes on a second disk.
"""

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.lab import images
from tests.lab.images import USB_MODULES, LabError

# What virtrng imports, as RUN_PACKAGES in the Makefile has it, comes with these.
SYSTEM = ("systemd-sysv", "udev", "kmod", "dbus", "usbip")
# A host of guests, as its administrator installs it. Nothing of it runs until a test starts it.
LIBVIRT = ("libvirt-daemon-system", "libvirt-clients", "qemu-system-x86")
DISABLED = ("libvirtd.service", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket",
            "libvirt-guests.service", "virtlogd.service", "virtlogd.socket", "virtlogd-admin.socket",
            "virtlockd.service", "virtlockd.socket", "virtlockd-admin.socket")  # fmt: skip
# The disks (ext4 asks for crc32c by its name), and the channel on which the tests speak to the host.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4", "virtio_console", "virtio_rng")
DISK_BYTES = 2 << 30
HERE = Path(__file__).parent
MAKEFILE = HERE.parents[1] / "Makefile"
# Of no use here, and each costs a part of a second under emulation.
MASKED = (
    "apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer",
    "e2scrub_reap.service", "dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount", "sys-kernel-config.mount", "sys-fs-fuse-connections.mount",
    "modprobe@configfs.service", "modprobe@drm.service", "modprobe@efi_pstore.service",
    "modprobe@fuse.service",
    "proc-sys-fs-binfmt_misc.automount", "getty.target", "console-getty.service", "systemd-pstore.service",
    "systemd-firstboot.service", "systemd-update-utmp.service", "systemd-update-utmp-runlevel.service",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HostImage:
    """What QEMU boots: the disk is to be opened as a snapshot."""

    kernel: Path
    initrd: Path
    disk: Path


def host_image() -> HostImage:
    """Return the image, made first where the cache has none; the network is then needed."""
    files = (Path(__file__), HERE / "host-init", HERE / "agent", HERE / "agent.service")
    content = b"\0".join([file.read_bytes() for file in files] + [" ".join(_run_packages()).encode()])
    busybox = images.unpacked("busybox-static") / "bin/busybox"  # before: one entry is made at a time
    made = images._once(
        f"host-{hashlib.sha256(content).hexdigest()[:16]}", lambda work: _build(work, busybox)
    )
    for other in made.parent.glob("host-*"):  # half a gigabyte each
        if other != made:
            shutil.rmtree(other, ignore_errors=True)
    return HostImage(made / "kernel", made / "initrd.cpio", made / "disk.ext4")


def _run_packages() -> list[str]:
    found = re.search(r"^RUN_PACKAGES := (.*)$", MAKEFILE.read_text(), re.MULTILINE)
    if not found:
        raise LabError(f"{MAKEFILE} names no RUN_PACKAGES")
    return found.group(1).split()


def _build(work: Path, busybox: Path) -> None:
    root, package = work / "root", work / "package"
    images._say(f"making a Debian to boot, of packages, in {images.cache_dir()}")
    _bootstrap(root)
    package.mkdir()
    release = _kernel(package, root, work, busybox)
    images._run("systemctl", f"--root={root}", "--quiet", "disable", *DISABLED)
    for unit in MASKED:
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")
    _agent(root)
    # The tests look for refusals in the journal of this boot.
    (root / "etc/fstab").write_text("/dev/vda / ext4 rw,noatime 0 0\n")
    (root / "etc/hostname").write_text("host\n")
    (root / "etc/machine-id").write_text(f"{hashlib.md5(release.encode()).hexdigest()}\n")
    images._run("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(work / "disk.ext4"), f"{DISK_BYTES >> 10}")
    shutil.rmtree(root)
    shutil.rmtree(package)
    (work / "apt.conf").unlink()


def _bootstrap(root: Path) -> None:
    """Make a root directory out of packages, from wherever apt gets this machine's own."""
    targets = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(ORIGIN)"
    listed = images._apt("apt-get", "indextargets", "--format", targets, "Identifier: Packages")
    sources = [line.split() for line in listed.splitlines()]
    debian = [
        f"deb {uri} {suite} {component}" for uri, suite, component, *origin in sources if origin == ["Debian"]
    ]
    if not debian:
        raise LabError("apt knows no source of Debian's packages: apt-get update")
    suite = debian[0].split()[2]
    options = root.with_name("apt.conf")
    acquire = images._run("apt-config", "dump", "Acquire")
    options.write_text(f'APT::Install-Recommends "false";\n{acquire}')
    images._run(
        "mmdebstrap", "--variant=minbase", f"--aptopt={options}",
        f"--include={','.join([*SYSTEM, *LIBVIRT, *_run_packages()])}", suite, str(root), *debian,
    )  # fmt: skip


def _kernel(package: Path, root: Path, work: Path, busybox: Path) -> str:
    """Put the kernel and an initramfs into 'work', the modules that are ever loaded into 'root'."""
    depends = images._apt_field(images.KERNEL_METAPACKAGE, "Depends")
    (name,) = re.findall(r"\blinux-image-\S+", depends)
    images._fetch_and_unpack(name, package)
    (vmlinuz,) = package.glob("boot/vmlinuz-*")
    release = vmlinuz.name.removeprefix("vmlinuz-")
    images._write_sparse(work / "kernel", images._uncompressed(vmlinuz.read_bytes()))
    (tree,) = (path for path in package.glob("**/lib/modules/*") if path.name == release)
    modules = root / "lib/modules" / release
    (modules / "kernel").mkdir(parents=True)
    for file in tree.glob("modules.*"):
        shutil.copy(file, modules)
    for module, content in images._in_load_order(tree, BOOT_MODULES + USB_MODULES):
        (modules / "kernel" / f"{module}.ko").write_bytes(content)
    images._run("chroot", str(root), "depmod", release)
    boot = images._in_load_order(tree, BOOT_MODULES)
    (work / "initrd.cpio").write_bytes(_initramfs(list(boot), busybox))
    return release


def _initramfs(modules: list[tuple[str, bytes]], busybox: Path) -> bytes:
    files = {"init": (HERE / "host-init").read_bytes(), "bin/busybox": busybox.read_bytes()}
    files |= {f"modules/{number:02}-{name}.ko": content for number, (name, content) in enumerate(modules)}
    archive = b"".join(images._cpio(name, 0o040755) for name in ("bin", "dev", "modules", "root"))
    archive += images._cpio("dev/console", 0o020600, rdev=(5, 1))
    archive += b"".join(images._cpio(name, 0o100755, content) for name, content in files.items())
    return archive + images._cpio("TRAILER!!!", 0)


def _agent(root: Path) -> None:
    shutil.copy(HERE / "agent", root / "usr/local/sbin/test-agent")
    (root / "usr/local/sbin/test-agent").chmod(0o755)
    unit = root / "etc/systemd/system/test-agent.service"
    shutil.copy(HERE / "agent.service", unit)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / unit.name).symlink_to(f"../{unit.name}")
