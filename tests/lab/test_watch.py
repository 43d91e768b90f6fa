# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng watch` as a process: how it starts, what it is told, what it says, and how it ends."""

import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.conftest import NewGuest
from tests.lab.host import LabHost
from tests.lab.product import VIRTRNG, command, definition, live, rngs, virtrng, wish
from tests.lab.watching import EVERYBODY, Watching, has_ours, wait_defined
from tests.unit.support import NOBODY, readable_tree
from virtrng.errors import BadMemory, FileFailed, HypervisorDenied, NoHypervisor, WatcherRunning

NO_BUS = "its machine has no bus for a virtio device"


def test_a_guest_that_is_defined_has_it_and_starts_with_it(
    lab_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    with Watching(lab_host, tmp_path) as watching:
        guest = new_guest()
        wait_defined(guest)
        lab_host.virsh("start", guest.name)
        assert has_ours(live(guest))
        watching.wait_for_log(f"{guest.name}: definition: given a virtio-rng (/dev/random, 4096 B/1000 ms)")
    assert wish(definition(guest)) == {"device": "on"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_it_is_told(lab_host: LabHost, tmp_path: Path, number: signal.Signals) -> None:
    watching = Watching(lab_host, tmp_path)
    watching.start()
    assert watching.signal(number) == 0
    assert "Traceback" not in watching.log()
    assert watching.log().startswith(f"watching the guests of {lab_host.uri}\n")


def test_a_second_one_is_told_of_the_first(lab_host: LabHost, new_guest: NewGuest, tmp_path: Path) -> None:
    guest = new_guest(machine="isapc")
    with Watching(lab_host, tmp_path, EVERYBODY) as watching:
        assert watching.process is not None
        error = WatcherRunning(f"virtrng watch (pid {watching.process.pid})")
        second = virtrng(lab_host, "watch", config=watching.config)
        assert (second.code, second.out) == (1, "")
        assert second.err == f"virtrng: {error}\n  {error.remedy}\n"
        # It works beside the other, as the remedy says.
        assert watching.once().code == 3
        watching.wait_for_log(f"{guest.name}: {NO_BUS}")
        watching.kill()
        watching.start()


def test_its_configuration_is_read_anew(lab_host: LabHost, new_guest: NewGuest, tmp_path: Path) -> None:
    guest = new_guest()
    with Watching(lab_host, tmp_path) as watching:
        watching.wait_until(lambda status: status.guests == {"before": 1})
        watching.configure('[domains]\nmanage = "al"')
        watching.look_at_all()
        watching.wait_for_log("; the configuration stays as it was\n  ")
        assert "domains.manage" in watching.log()
        assert watching.wait_until(lambda status: status.guests == {"before": 1}).changes == 0
        watching.configure(EVERYBODY)
        watching.look_at_all()
        wait_defined(guest)
        assert watching.wait_until(lambda status: status.guests == {"managed": 1}).changes == 1
        watching.config.unlink()
        watching.look_at_all()
        watching.wait_for_log(f"{watching.config}")
        assert has_ours(definition(guest))


def test_once_tells_what_became_of_each(lab_host: LabHost, new_guest: NewGuest, tmp_path: Path) -> None:
    watching = Watching(lab_host, tmp_path)
    said = watching.once()
    assert (said.code, said.out, said.err) == (0, "nothing to do: there is no such guest\n", "")
    guest = new_guest()
    said = watching.once()
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == [
        f"{guest.name}: definition: given a virtio-rng (/dev/random, 4096 B/1000 ms), from its next start",
        "1 given the device",
    ]
    assert watching.once().out == "1 already so\n"
    second = new_guest(machine="isapc")
    said = watching.once("--json")
    assert (said.code, said.err.splitlines()[0]) == (5, f"virtrng: {second.name}: {NO_BUS}")
    assert [(one["name"], one["changed"], one["config"]) for one in said.document["domains"]] == [
        (guest.name, False, "already"),
        (second.name, False, "failed"),
    ]
    assert watching.log() == ""


def test_a_dry_run_changes_nothing_and_needs_no_right_to(
    lab_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    guest = new_guest()
    before = definition(guest)
    watching = Watching(lab_host, tmp_path)
    for manage, shown in (("new", False), ("all", True)):
        watching.configure(f'[domains]\nmanage = "{manage}"')
        line = [*command(lab_host, "watch", "--once", "--dry-run", config=watching.config)]
        line[line.index(lab_host.uri)] = f"{lab_host.uri}-ro"
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == 0
        assert done.stderr.startswith("it has not run here yet: what is here now counts as there before it")
        assert ('+      <alias name="ua-virtrng0"/>' in done.stdout) is shown
        assert ("nothing would change" in done.stdout) is not shown
    diff = watching.once("--dry-run", "--json").document["domains"][0]["diff"]
    assert f"--- {guest.name}, definition\n" in diff
    assert definition(guest) == before
    assert [*tmp_path.iterdir()] == [watching.config], "it remembers nothing either"
    line.remove("--dry-run")
    assert subprocess.run(line, capture_output=True).returncode == 1, "that socket is for reading alone"
    assert definition(guest) == before


@pytest.mark.parametrize("option", ["--dry-run", "--json"])
def test_what_is_for_one_look_alone(lab_host: LabHost, option: str) -> None:
    said = virtrng(lab_host, "watch", option)
    assert (said.code, said.out) == (2, "")
    assert said.err == "virtrng watch: error: --dry-run and --json are for --once\n"


def test_a_libvirtd_that_is_not_there(lab_host: LabHost, new_guest: NewGuest, tmp_path: Path) -> None:
    guest = new_guest()
    watching = Watching(lab_host, tmp_path, EVERYBODY)
    lab_host.stop_daemon()
    try:
        said = watching.once()
        assert (said.code, said.out) == (1, "")
        assert said.err.startswith(f"virtrng: no libvirt answers at {lab_host.uri}: ")
        assert said.err.endswith(f"\n  {NoHypervisor('', '').remedy}\n")
        watching.start(listening=False)
        watching.wait_until(lambda status: "no libvirt answers" in (status.waiting or ""))
        assert watching.stop() == 0
        watching.start(listening=False)
        watching.wait_until(lambda status: "no libvirt answers" in (status.waiting or ""))
    finally:
        lab_host.start_daemon()
    wait_defined(guest)
    assert watching.stop() == 0
    assert watching.log().count("; waiting for it\n") == 2, "each run says it once"
    assert watching.log().count(f"watching the guests of {lab_host.uri}\n") == 1


@pytest.fixture
def public() -> Iterator[Path]:
    """Yield a directory that belongs to an ordinary user, with a copy of the package in it."""
    with tempfile.TemporaryDirectory(prefix="virtrng-watch-") as name:
        root = Path(name)
        readable_tree(root)
        for path in (root, *root.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        shutil.chown(root, NOBODY, NOBODY)
        yield root


def test_a_user_whom_libvirt_does_not_let_in(lab_host: LabHost, public: Path) -> None:
    def refused() -> str:
        done = subprocess.run([*line, "--once"], cwd=public / "tree", capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr

    watching = Watching(lab_host, public)
    watching.config.chmod(0o644)
    user = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    line = [*user, *VIRTRNG, "--config-file", str(watching.config), "-c", lab_host.uri, "watch"]
    error = HypervisorDenied(lab_host.uri, "")
    assert refused().startswith(f"virtrng: {error}")
    assert refused().endswith(f"\n  {error.remedy}\n")
    assert not watching.state_dir.exists()
    watching.start(listening=False, line=line, cwd=public / "tree")
    watching.wait_until(lambda status: "refuses this user" in (status.waiting or ""))
    assert watching.stop() == 0
    assert watching.log().count("; waiting for it\n") == 1


def test_a_memory_that_tells_nothing_ends_it(lab_host: LabHost, new_guest: NewGuest, tmp_path: Path) -> None:
    guest = new_guest()
    watching = Watching(lab_host, tmp_path)
    assert watching.once().code == 0
    (memory,) = watching.state_dir.iterdir()
    known = memory.read_text()
    memory.write_text(known[:-5])
    said = watching.once()
    watching.start(listening=False)
    assert watching.wait() == 1
    for told in (said.err, watching.log()):
        assert told.startswith(f"virtrng: {memory}: not a list of guests: ")
        assert told.endswith(f"\n  {BadMemory('', '').remedy}\n")
    assert memory.read_text() == known[:-5]
    memory.write_text(known)
    with watching:
        watching.wait_until(lambda status: status.guests == {"before": 1})
    assert rngs(definition(guest)) == []


@pytest.mark.parametrize(
    ("what", "told"), [("state", "cannot read {}/"), ("run-watch", "cannot open {}/watch.lock: File exists")]
)
def test_a_place_where_it_can_keep_nothing(lab_host: LabHost, tmp_path: Path, what: str, told: str) -> None:
    watching = Watching(lab_host, tmp_path)
    (tmp_path / what).write_text("a file where a directory should be")
    watching.start(listening=False)
    assert watching.wait() == 1
    assert watching.log().startswith(f"virtrng: {told.format(tmp_path / what)}")
    assert watching.log().endswith(f"\n  {FileFailed('', '', '').remedy}\n")


def test_a_status_that_cannot_be_written_costs_that_alone(
    lab_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    watching = Watching(lab_host, tmp_path, EVERYBODY)
    (watching.watch_dir / "watch.json").mkdir(parents=True)
    watching.start(listening=False)
    guest = new_guest()
    wait_defined(guest)
    assert watching.stop() == 0


def test_what_it_writes_is_what_it_has_done(lab_host: LabHost, new_guest: NewGuest, tmp_path: Path) -> None:
    with Watching(lab_host, tmp_path) as watching:
        new_guest()
        new_guest(machine="isapc")
        watching.wait_until(lambda status: status.guests == {"managed": 1, "refused": 1})
        status = json.loads((watching.watch_dir / "watch.json").read_text())
    assert (status["changes"], status["failures"], status["without_device"]) == (1, 0, 1)
    assert [(one["word"], one["why"].partition(": ")[2]) for one in status["noted"]] == [("refused", NO_BUS)]
    assert sum(status["latency"]["counts"]) >= 1
