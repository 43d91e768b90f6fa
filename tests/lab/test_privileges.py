# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does `virtrng feed` run as two processes, whoever starts it, and never wait for the pool that it feeds?

The key is simulated, the kernel's pool is this machine's, and nothing is credited.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.lab import payload
from tests.lab.guest import LabGuest
from tests.lab.host import LabHost, wait_for
from tests.lab.images import LabError, guest_image
from virtrng import status
from virtrng.status import FeederStatus

USER = "virtrng:x:64999:64999::/nonexistent:/usr/sbin/nologin"
GROUPS = ("virtrng:x:64999:", "virtrng-keys:x:64998:virtrng")
SYS_ADMIN = 1 << 21
SERVICE_USER = 65534
STARTS_S = 60.0
STRACE = Path("/usr/bin/strace")
STAYS_ROOT = "the process that reads keys stays user 0, without any capability"
# Executes the rest of its command line under a seccomp filter (seccomp(2)) that kills whoever changes
# its capabilities, its user, or a file's owner, as SystemCallFilter=~@privileged does.
FORBID = """
import ctypes, os, struct, sys
# x86_64: capset, set*id, setgroups, chown, fchown, lchown, fchownat, chroot
numbers = [126, *range(105, 107), 113, 114, 116, 117, 119, 122, 123, 92, 93, 94, 260, 161]
program = [(0x20, 0, 0, 0)]  # load the number
for left, number in zip(range(len(numbers), 0, -1), numbers):
    program.append((0x15, left, 0, number))  # if it is that, on to the end
program += [(0x06, 0, 0, 0x7FFF0000), (0x06, 0, 0, 0x80000000)]  # allow; kill
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in program))
fprog = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, fprog, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""


class Place:
    """A copy of the package that anyone can read, and a run_dir beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.run_dir = root / "run"
        shutil.copytree(payload.TREE / "virtrng", root / "virtrng", ignore=shutil.ignore_patterns("*.pyc"))
        (root / "virtrng.toml").write_text(f"[paths]\nrun_dir = '{self.run_dir}'\n")
        for path in (root, *root.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)

    @property
    def command(self) -> list[str]:
        config = str(self.root / "virtrng.toml")
        return [sys.executable, "-m", "virtrng", "--config-file", config, "feed", "--simulate", "entropykey"]

    @contextmanager
    def feeding(self, *prefix: str) -> Iterator["subprocess.Popen[str]"]:
        """Start it as the leader of a process group; it is gone when the block ends."""
        process = subprocess.Popen(
            [*prefix, *self.command],
            stderr=subprocess.PIPE, text=True, cwd=self.root, start_new_session=True,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def seeded(self, process: "subprocess.Popen[str]", seeds: int = 1, blocks: int = 1) -> FeederStatus:
        """Wait until a running feeder has made so many seeds and tested so many blocks; return its status."""

        def enough() -> FeederStatus | None:
            assert process.poll() is None, process.communicate()[1]
            found = status.read(self.run_dir)
            if not found or found.kernel.seeds < seeds or not Path(f"/proc/{found.pid}").exists():
                return None
            return found if found.keys[0].blocks_tested >= blocks else None

        found = wait_for(enough, "the feeder to feed", timeout_s=STARTS_S, poll_s=0.1)
        assert found is not None
        return found


@pytest.fixture
def place() -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="virtrng-feed-") as root:
        yield Place(Path(root))


def injector_of(reader: int) -> int:
    (pid,) = Path(f"/proc/{reader}/task/{reader}/children").read_text().split()
    return int(pid)


def facts(pid: int) -> tuple[str, int, int]:
    """Return a process's name, user and permitted capabilities."""
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    found = {name: value.split() for name, _, value in lines}
    return found["Name"][0], int(found["Uid"][0]), int(found["CapPrm"][0], 16)


def wait_until_gone(pid: int) -> None:
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), f"process {pid} to end", timeout_s=STARTS_S)


def ended(process: "subprocess.Popen[str]", number: int = signal.SIGTERM) -> str:
    """End it by a signal to the whole group; return what it said."""
    os.killpg(process.pid, number)
    said = process.communicate(timeout=STARTS_S)[1]
    assert process.returncode == 0, said
    return said


# --- two processes that live and die together


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_ends_the_whole_group_still_lets_the_last_seed_through(place: Place, number: int) -> None:
    with place.feeding() as process:
        first = place.seeded(process)
        assert first.pid == process.pid
        injector = injector_of(first.pid)
        assert facts(first.pid) == ("python3", 0, 0)
        assert facts(injector) == ("virtrng-inject", 0, SYS_ADMIN)
        before = place.seeded(process, blocks=first.keys[0].blocks_tested + 1)
        if number == signal.SIGHUP:  # ends the reader without a word, as it always did
            os.killpg(process.pid, number)
            assert process.wait(STARTS_S) == -number
        else:
            said = ended(process, number)
            assert said.count(STAYS_ROOT) == said.count("session established") == 1
            last = status.read(place.run_dir)
            assert last is not None
            assert last.kernel.seeds == before.kernel.seeds + 1
        wait_until_gone(injector)


def test_the_reader_does_not_outlive_the_injector(place: Place) -> None:
    with place.feeding() as process:
        os.kill(injector_of(place.seeded(process).pid), signal.SIGKILL)
        said = process.communicate(timeout=STARTS_S)[1]
    assert process.returncode == 1
    assert "virtrng: the process that seeds the kernel's pool was killed by signal 9\n" in said


def test_the_injector_does_not_outlive_the_reader(place: Place) -> None:
    with place.feeding() as process:
        injector = injector_of(place.seeded(process).pid)
        os.kill(process.pid, signal.SIGKILL)
        wait_until_gone(injector)


# --- whoever starts it


@contextmanager
def with_the_user(place: Place) -> Iterator[tuple[str, ...]]:
    """Give what runs a command where there is a user 'virtrng'."""
    passwd, group = place.root / "passwd", place.root / "group"
    passwd.write_text(f"{Path('/etc/passwd').read_text().rstrip()}\n{USER}\n")
    group.write_text("\n".join([Path("/etc/group").read_text().rstrip(), *GROUPS, ""]))
    script = f'mount --bind {passwd} /etc/passwd && mount --bind {group} /etc/group && exec "$@"'
    yield ("unshare", "--mount", "sh", "-c", script, "sh")


def test_root_becomes_the_user_and_run_dir_goes_from_one_to_the_other(place: Place) -> None:
    with with_the_user(place) as prefix:
        for words, user in ((prefix, 64999), ((), 0), (prefix, 64999)):
            with place.feeding(*words) as process:
                found = place.seeded(process)
                assert facts(found.pid) == ("python3", user, 0)
                assert facts(injector_of(found.pid)) == ("virtrng-inject", 0, SYS_ADMIN)
                groups = re.search(
                    r"^Groups:\s*(.*?)\s*$", Path(f"/proc/{found.pid}/status").read_text(), re.M
                )
                assert groups is not None
                assert {"64998", "64999"} <= set(groups.group(1).split()) or not user
                second = subprocess.run(
                    [*prefix, *place.command], capture_output=True, text=True, cwd=place.root
                )
                said = ended(process)
            assert (STAYS_ROOT in said) == (user == 0)
            assert second.returncode == 1
            assert f"is in use by virtrng feed (pid {found.pid})" in second.stderr
            assert [place.run_dir.stat().st_uid, (place.run_dir / "feeder.lock").stat().st_uid] == [user] * 2


def test_it_works_under_the_filter_of_a_service(place: Place) -> None:
    place.root.chmod(0o777)
    prefix = (
        "setpriv", f"--reuid={SERVICE_USER}", f"--regid={SERVICE_USER}", "--clear-groups",
        "--inh-caps=+sys_admin", "--ambient-caps=+sys_admin", "--bounding-set=-all,+sys_admin", "--",
        sys.executable, "-c", FORBID,
    )  # fmt: skip
    killed = subprocess.run([*prefix[-3:], "/bin/chown", "0", str(place.root)])
    assert killed.returncode == -signal.SIGSYS, "the filter is one"
    with place.feeding(*prefix) as process:
        found = place.seeded(process)
        assert facts(found.pid) == ("python3", SERVICE_USER, 0)
        assert facts(injector_of(found.pid)) == ("virtrng-inject", SERVICE_USER, SYS_ADMIN)
        assert STAYS_ROOT not in ended(process)


# --- what the kernel is asked


STRACE_EACH = f"{STRACE} -ff --seccomp-bpf -e trace=getrandom,ioctl -o"  # a file each process and thread
GETRANDOM = re.compile(r"getrandom\(.*, \d+, (\w+)\) += (.*)")
# Neither flag lets the call wait (getrandom(2)). With the second, libsystemd's, it does not fail either.
NEVER_WAIT = {"GRND_NONBLOCK", "GRND_INSECURE"}


def check_never_waits(trace: str) -> list[str]:
    """Assert that no call of getrandom(2) could have waited; return what those answered that could fail."""
    calls = [line for line in trace.splitlines() if "getrandom(" in line]
    found = [one.groups() for line in calls if (one := GETRANDOM.search(line))]
    assert len(found) == len(calls), "some call has no answer"
    assert {flag for flag, _ in found} <= NEVER_WAIT, calls
    return [answer for flag, answer in found if flag == "GRND_NONBLOCK"]


def test_each_seed_is_one_ioctl_and_nothing_waits_for_the_pool(place: Place) -> None:
    with place.feeding(*STRACE_EACH.split(), str(place.root / "trace")) as process:
        reader = place.seeded(process).pid
        os.kill(reader, signal.SIGTERM)
        process.communicate(timeout=STARTS_S)
        assert process.returncode == 0
    last = status.read(place.run_dir)
    assert last is not None
    traces = {int(path.suffix[1:]): path.read_text() for path in place.root.glob("trace.*")}
    assert len(check_never_waits("".join(traces.values()))) > 2
    adding = {pid: trace.count("RNDADDENTROPY") for pid, trace in traces.items() if "RNDADDENTROPY" in trace}
    assert reader not in adding
    # The first adds nothing: it asks whether that is allowed.
    assert list(adding.values()) == [last.kernel.seeds + 1]


# --- before the pool is initialised


@pytest.fixture
def unready(lab_host: LabHost) -> Iterator[LabGuest]:
    """Yield a guest that has no RDRAND, no virtio-rng, and no clock jitter made use of yet."""
    image = guest_image(extra=payload.usb_payload() | payload._with_libraries(STRACE))
    guest = LabGuest.define(lab_host, "unready", image=image, memory_mib=256, vcpus=2)
    try:
        guest.boot()
        yield guest
    finally:
        sys.stdout.write(guest.console_text()[-4000:])
        guest.remove()


def test_it_starts_and_feeds_before_the_generator_is_ready(unready: LabGuest) -> None:
    assert "rdrand" not in unready.run("grep flags /proc/cpuinfo")
    assert unready.crng_ready_s() is None, "the guest's generator is not ready yet"
    # A file in the place of /dev/urandom: to read that would have the kernel make itself ready (5.18 on).
    unready.run(
        "/sbin/ldconfig; head -c 4096 /bin/busybox >/run/urandom; mount --bind /run/urandom /dev/urandom"
    )
    feed = f"{STRACE_EACH} /run/trace {payload.GUEST_PYTHON} -m virtrng feed --simulate entropykey"
    unready.run(f"cd {payload.GUEST_TREE}; ({feed}) >/run/feed.log 2>&1 & echo $! >/run/feed.pid")

    def fed() -> bool:
        if unready.try_run("kill -0 $(cat /run/feed.pid)").status:
            raise LabError(unready.run("cat /run/feed.log; tail -n 20 /run/trace.*"))
        return bool(re.search('"seeds": [1-9]', unready.try_run("cat /run/virtrng/feeder.json").output))

    wait_for(fed, "the feeder to feed", timeout_s=120, poll_s=1.0)
    answers = check_never_waits(unready.run("grep -h getrandom /run/trace.*"))
    assert answers
    assert all("EAGAIN" in answer for answer in answers), answers
    assert '"crng_ready": false' in unready.run("cat /run/virtrng/feeder.json")
    assert unready.crng_ready_s() is None
