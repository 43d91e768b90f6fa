# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever is wrong with virtrng's hook, no operation of libvirt's fails, and no guest dies.

One guest lives through all of it, reading /dev/hwrng; each way to break the hook meets each operation.
"""

import os
from collections.abc import Callable, Iterator

import pytest

from tests.lab.conftest import NewGuest
from tests.lab.guest import LabGuest
from tests.lab.hooks import Hooks, installed
from tests.lab.host import LabHost
from tests.lab.images import GuestImage
from tests.lab.product import OURS, TREE, wait_for_more_reads, wait_for_rng

# With it the hook goes on to Python at a start too.
INSISTS = 'require = "refuse"\nsource = "/dev/urandom"'
INTERPRETER = "/usr/bin/python3"
TRACE = "/run/virtrng-lab/broken"
EVERY_OPERATION = {"prepare", "start", "started", "stopped", "release", "restore", "migrate", "reconnect"}


def edit(hooks: Hooks, old: str, new: str) -> None:
    """Change the installed copy, as a package that was half upgraded would leave it."""
    text = hooks.ours.read_text()
    assert old in text
    hooks.ours.write_text(text.replace(old, new))


def program(hooks: Hooks, script: str) -> str:
    """Put a program where the host's inside finds it; it leaves a trace that it was run."""
    file = hooks.host.root / "program"
    file.write_text(f"#!/bin/sh\n: >{TRACE}\n{script}\n")
    file.chmod(0o755)
    return str(file)


def package_missing(hooks: Hooks) -> None:
    edit(hooks, f"package={TREE}", "package=/nonexistent")


def package_broken(hooks: Hooks) -> None:
    package = hooks.host.root / "broken/virtrng"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("raise SystemExit(3)\n")
    edit(hooks, f"package={TREE}", f"package={package.parent}")


def package_chatters(hooks: Hooks) -> None:
    package = hooks.host.root / "chatters/virtrng/domain"
    package.mkdir(parents=True, exist_ok=True)
    (package.parent / "__init__.py").write_text("print('<domain>')\nprint('junk', flush=True)\n")
    (package / "__init__.py").write_text("")
    (package / "hook.py").write_text("def main(*_):\n    print('<domain/>', flush=True)\n    return 0\n")
    edit(hooks, f"package={TREE}", f"package={package.parent.parent}")


def configuration_garbage(hooks: Hooks) -> None:
    hooks.config.write_bytes(b"require\xff\x00 = [[[\n" * 1000)


def configuration_not_toml(hooks: Hooks) -> None:
    hooks.config.write_text(f"[domains]\n{INSISTS}\nsource =\n")


def configuration_unknown_value(hooks: Hooks) -> None:
    hooks.configure('require = "sometimes"')


def configuration_unreadable(hooks: Hooks) -> None:
    # Root reads any file, but no directory.
    hooks.config.unlink()
    hooks.config.mkdir()


def configuration_waits(hooks: Hooks) -> None:
    # Whoever opens it for reading waits for a writer.
    hooks.config.unlink()
    os.mkfifo(hooks.config)


def configuration_huge(hooks: Hooks) -> None:
    hooks.config.write_text(f"[domains]\n{INSISTS}\n" + "# x\n" * 12_500_000)


def configuration_missing(hooks: Hooks) -> None:
    hooks.config.unlink()


def interpreter_missing(hooks: Hooks) -> None:
    edit(hooks, INTERPRETER, "/usr/bin/no-such-python3")


def interpreter_crashes(hooks: Hooks) -> None:
    edit(hooks, INTERPRETER, program(hooks, "kill -SEGV $$"))


def interpreter_fails(hooks: Hooks) -> None:
    edit(hooks, INTERPRETER, program(hooks, "echo trouble >&2; exit 1"))


BREAKAGES = [
    package_missing,
    package_broken,
    package_chatters,
    configuration_garbage,
    configuration_not_toml,
    configuration_unknown_value,
    configuration_unreadable,
    configuration_waits,
    configuration_huge,
    configuration_missing,
    interpreter_missing,
    interpreter_crashes,
    interpreter_fails,
]


@pytest.fixture(scope="module")
def both(lab_host: LabHost, second_host: LabHost) -> Iterator[tuple[Hooks, Hooks]]:
    """Yield the hooks of both hosts."""
    with installed(lab_host) as first, installed(second_host) as second:
        yield first, second


@pytest.fixture(scope="module")
def traveller(lab_host: LabHost, image: GuestImage, both: tuple[Hooks, Hooks]) -> Iterator[LabGuest]:
    """Yield a guest that reads /dev/hwrng all along, on whichever host it is."""
    guest = LabGuest.define(lab_host, "traveller", image=image, extra_devices=OURS)
    try:
        guest.boot()
        wait_for_rng(guest)
        guest.start_reader()
        yield guest
    finally:
        guest.remove()


@pytest.fixture
def mended(both: tuple[Hooks, Hooks]) -> Iterator[tuple[Hooks, Hooks]]:
    """Yield the hooks of both hosts, whole and insisting; so they are again afterwards."""
    yield both
    for hooks in both:
        if hooks.config.is_dir():
            hooks.config.rmdir()
        hooks.config.unlink(missing_ok=True)
        hooks.configure(INSISTS)
        hooks.host.outside(TRACE).unlink(missing_ok=True)
        hooks.install()


@pytest.mark.parametrize("broken", BREAKAGES, ids=lambda broken: broken.__name__)
def test_nothing_fails_and_nobody_dies(
    mended: tuple[Hooks, Hooks],
    traveller: LabGuest,
    new_guest: NewGuest,
    second_host: LabHost,
    lab_host: LabHost,
    broken: Callable[[Hooks], None],
) -> None:
    for hooks in mended:
        hooks.configure(INSISTS)
        broken(hooks)
        hooks.calls(traveller)
    here, there = mended if traveller.host is lab_host else reversed(mended)
    starts_and_ends(new_guest(host=here.host))
    saved = here.host.root / "saved"
    here.host.virsh("save", traveller.name, str(saved))
    here.host.virsh("restore", str(saved))
    saved.unlink()
    traveller.migrate(there.host)
    there.host.restart_daemon()
    assert traveller.state() == "running"
    wait_for_more_reads(traveller)
    assert traveller.reader_report().failures == 0
    assert {*here.calls(traveller), *there.calls(traveller)} == EVERY_OPERATION
    assert not there.tainted(traveller)
    if broken in (interpreter_crashes, interpreter_fails):
        assert all(hooks.host.outside(TRACE).exists() for hooks in mended)


def starts_and_ends(guest: LabGuest) -> None:
    """A guest that policy would refuse, by a hook that were whole, starts, is saved, and ends."""
    guest.host.virsh("start", guest.name)
    guest.host.virsh("managedsave", guest.name)
    guest.host.virsh("start", guest.name)
    assert guest.state() == "running"
    guest.host.virsh("destroy", guest.name)
    assert guest.state() == "shut off"


def test_the_traveller_was_there_all_the_time(traveller: LabGuest) -> None:
    assert traveller.stop_reader().failures == 0
    assert traveller.console_text().count("BOOTED") == 1
    traveller.host.virsh("shutdown", traveller.name)
    traveller.wait_state("shut off")
