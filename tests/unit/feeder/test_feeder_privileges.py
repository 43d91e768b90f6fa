# SPDX-License-Identifier: LGPL-2.1-or-later
"""One command becomes two processes: what each may do, and what the second begins with."""

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.feeder.served import NO_PROCESS, socketpair
from tests.unit.support import NOBODY, child_after, in_child, is_root, readable_tree
from virtrng import files
from virtrng.errors import (
    FeederRunning,
    FileFailed,
    InjectorLost,
    SeparationFailed,
    StillPrivileged,
    VirtrngError,
)
from virtrng.feeder import capabilities as caps
from virtrng.feeder import privileges
from virtrng.feeder.injector import Injector

REFUSED = "/dev/random refused RNDADDENTROPY: no CAP_SYS_ADMIN"
OTHER = NOBODY - 1  # neither root nor who runs the tests
SYS_ADMIN = 1 << caps.CAP_SYS_ADMIN
# What it finds goes to stdout as JSON, an error of ours as a string.
SCRIPT = """
import json, logging, os, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from virtrng.errors import VirtrngError
from virtrng.feeder import privileges
logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.INFO)

def of(pid):
    lines = (line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    found = {name: value.split() for name, value in lines}
    return {"name": found["Name"][0], "uid": found["Uid"], "gid": found["Gid"], "groups": found["Groups"],
            "caps": [int(found[name][0], 16) for name in ("CapPrm", "CapEff", "CapAmb")],
            "new": found["NoNewPrivs"][0]}

try:
    injector = privileges.separate(Path(sys.argv[2]), reseed=True)
except VirtrngError as error:
    print(json.dumps(str(error)))
    sys.exit(3)
print(json.dumps({
    "argv": sys.argv, "flags": [sys.flags.isolated, sys.flags.dont_write_bytecode, sys.warnoptions],
    "pid": os.getpid(), "left": privileges.VARIABLE in os.environ, "cwd": os.getcwd(),
    "descriptors": len(os.listdir("/proc/self/fd")), "reader": of("self"), "injector": of(injector._pid),
    "parent": Path(f"/proc/{injector._pid}/stat").read_text().rpartition(")")[2].split()[1],
}))
injector.close()
print(os.path.exists(f"/proc/{injector._pid}"))
"""


def separated(run_dir: Path, *prefix: str) -> tuple[Any, "subprocess.CompletedProcess[str]"]:
    """Run the script to its end; return its finding, and its process."""
    tree = str(readable_tree(run_dir.parent))
    done = subprocess.run(
        [*prefix, sys.executable, "-I", "-B", "-W", "error", "-c", SCRIPT, tree, str(run_dir), "-x"],
        capture_output=True, text=True, cwd="/", check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[0]), done


def check_both(found: dict[str, Any], run_dir: Path) -> None:
    """Assert what is so whoever started it."""
    assert found["argv"] == ["-c", str(run_dir.parent / "tree"), str(run_dir), "-x"]
    assert found["flags"] == [1, 1, ["error"]]
    assert (found["left"], found["cwd"], found["parent"]) == (False, "/", str(found["pid"]))
    # stdin, stdout, stderr, the socket, /dev/random, the listing itself
    assert found["descriptors"] == 6
    assert found["reader"]["caps"] == [0, 0, 0]
    assert found["injector"]["caps"] == [SYS_ADMIN, SYS_ADMIN, 0]
    assert found["injector"]["name"] == "virtrng-inject"
    assert (found["reader"]["new"], found["injector"]["new"]) == ("1", "1")


def test_root_or_refused(tmp_path: Path) -> None:
    found, done = separated(tmp_path / "run")
    if not is_root():
        assert (found, done.returncode, done.stderr) == (REFUSED, 3, "")
        return
    check_both(found, tmp_path / "run")
    assert done.stdout.splitlines()[1:] == ["False"], "it is gone when it was closed"
    (said,) = done.stderr.splitlines()
    assert said.startswith("the process that reads keys stays user 0, without any capability: ")
    assert found["reader"]["uid"] == ["0"] * 4
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("ambient", [True, False])
def test_as_the_service_starts_it(open_path: Path, *, ambient: bool) -> None:
    if not is_root():
        found, done = separated(open_path / "run")
        assert (found, done.returncode) == (REFUSED, 3)
        return
    user = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    extra = ("--inh-caps=+sys_admin", "--ambient-caps=+sys_admin", "--no-new-privs") if ambient else ()
    found, done = separated(open_path / "run", *user, *extra)
    if ambient:
        check_both(found, open_path / "run")
        assert found["reader"]["uid"] == found["injector"]["uid"] == [str(NOBODY)] * 4
        assert (done.returncode, done.stderr) == (0, "")
    else:
        assert (found, done.returncode, done.stderr) == (REFUSED, 3, "")


def test_root_that_may_do_nothing_else(tmp_path: Path) -> None:
    # As in a unit without User= whose bounding set is CAP_SYS_ADMIN: securebits are not its to set.
    if not is_root():
        assert separated(tmp_path / "run")[0] == REFUSED
        return
    found, _ = separated(tmp_path / "run", "setpriv", "--bounding-set=-all,+sys_admin")
    check_both(found, tmp_path / "run")


def test_root_without_the_one_capability(tmp_path: Path) -> None:
    prefix = ("setpriv", "--bounding-set=-sys_admin") if is_root() else ()
    found, done = separated(tmp_path / "run", *prefix)
    assert (found, done.returncode, done.stderr) == (REFUSED, 3, "")
    assert not (tmp_path / "run").exists()


# --- the second time


def resumed(variable: str) -> Injector:
    os.environ[privileges.VARIABLE] = variable
    try:
        return privileges.separate(Path("/nonexistent"), reseed=True)
    finally:
        assert privileges.VARIABLE not in os.environ


def test_it_goes_on_without_a_capability_and_not_with_one() -> None:
    ours, its = socketpair()
    number = ours.detach()

    def attempt() -> object:
        return resumed(f"{number}:{NO_PROCESS}").status.seeds

    for nobody in (True, False):
        held = is_root() and not nobody
        said = in_child(attempt, nobody=nobody)
        assert said.startswith(StillPrivileged.__name__) if held else said == "0"
    os.close(number)
    its.close()


@pytest.mark.parametrize("variable", ["", "x", "1000000:1", "0:1", "3", "-1:-1"])
def test_a_variable_that_is_not_ours_is_refused(variable: str) -> None:
    with pytest.raises(InjectorLost) as caught:
        resumed(variable)
    assert str(caught.value).endswith(f"is not at {privileges.VARIABLE}={variable}")


def test_an_injector_that_is_gone_by_then_is_noticed() -> None:
    ours, its = socketpair()
    its.close()
    number = ours.detach()
    assert InjectorLost.__name__ in in_child(lambda: resumed(f"{number}:{NO_PROCESS}"), nobody=True)
    os.close(number)


def test_an_injector_that_cannot_be_executed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    with pytest.raises(InjectorLost, match="has ended with status 1"):
        privileges.separate(tmp_path / "run", reseed=True)
    with pytest.raises(SeparationFailed, match=r"execute .*python3: No such file or directory"):
        privileges._execute({})


# --- what may be given up


def test_the_kernel_says_what_is_wrong() -> None:
    with pytest.raises(SeparationFailed) as caught:
        caps._prctl("PR_SOMETHING", 9999, 0)
    assert str(caught.value) == "cannot give up privileges: prctl(PR_SOMETHING): Invalid argument"
    if not is_root():
        with pytest.raises(SeparationFailed, match=r"prctl\(PR_SET_SECUREBITS\): Operation not permitted"):
            caps.lock_out_root()


def test_all_but_some_are_given_up() -> None:
    def attempt() -> object:
        before = caps.permitted()
        caps.keep_only(caps.CAP_SYS_ADMIN)
        some, held = caps.permitted(), caps.holds(caps.CAP_SYS_ADMIN, caps.CAP_CHOWN)
        caps.keep_only()
        return [some == before & SYS_ADMIN, held, caps.permitted()]

    assert in_child(attempt) == "[True, False, 0]"


def test_user_0_is_nobody_special_any_more() -> None:
    def attempt() -> object:
        caps.lock_out_root()
        done = subprocess.run(["grep", "-c", "Cap.*:.0*$", "/proc/self/status"], capture_output=True)
        return done.stdout.decode().strip()

    said = in_child(attempt)
    # Inheritable, permitted, effective, bounding and ambient: all five.
    assert said == "5" if is_root() else said.startswith("SeparationFailed")


# --- whom the reader becomes


def user_for(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    monkeypatch.setattr(pwd, "getpwnam", lambda _name: pwd.getpwuid(NOBODY))
    return privileges._user_for(run_dir)


def test_without_the_user_it_stays_who_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(privileges, "USER", "no such user")
    assert privileges._user_for(tmp_path) == "there is no user 'no such user'"


def test_who_can_read_the_package_is_chosen(monkeypatch: pytest.MonkeyPatch, open_path: Path) -> None:
    before = os.getresuid(), os.getresgid(), os.getgroups()
    monkeypatch.setattr(privileges, "PACKAGE", open_path)
    monkeypatch.setattr(sys, "argv", ["/dev/null"])
    found = user_for(open_path / "run", monkeypatch)
    assert found == (pwd.getpwuid(NOBODY) if is_root() else "it may not become 'virtrng'")
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == before


@pytest.mark.parametrize("closed", ["package/module.py", "package", "run"])
def test_who_cannot_is_not(monkeypatch: pytest.MonkeyPatch, open_path: Path, closed: str) -> None:
    package = open_path / "package"
    package.mkdir()
    (package / "module.py").touch()
    (open_path / "run").mkdir()
    (open_path / closed).chmod(0o700)
    monkeypatch.setattr(privileges, "PACKAGE", package)
    monkeypatch.setattr(sys, "argv", ["/dev/null"])
    why = f"'virtrng' has no access to {open_path / closed}"
    assert user_for(open_path / "run", monkeypatch) == (why if is_root() else "it may not become 'virtrng'")


def test_a_directory_with_other_things_in_it_is_given_to_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "udev").mkdir()
    found = user_for(tmp_path, monkeypatch)
    expected = f"{tmp_path} has other things in it, and is not given to 'virtrng'"
    assert found == (expected if is_root() else "it may not become 'virtrng'")
    privileges._give(tmp_path, OTHER, OTHER)
    assert tmp_path.stat().st_uid == os.getuid()


def test_becoming_another_needs_root() -> None:
    def attempt() -> object:
        privileges._become(pwd.getpwuid(NOBODY))
        return os.getresuid(), os.getresgid(), os.getgroups()

    said = in_child(attempt)
    expected = f"{((NOBODY,) * 3, (NOBODY,) * 3, [NOBODY])}"
    assert said == expected if is_root() else said.startswith("SeparationFailed: cannot give up privileges: ")


# --- run_dir


def test_run_dir_is_made_whatever_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        privileges._give(tmp_path / "run", os.getuid(), os.getgid())
    finally:
        os.umask(old)
    assert (tmp_path / "run").stat().st_mode & 0o7777 == 0o755


def test_what_a_former_reader_left_is_given_over(tmp_path: Path) -> None:
    for name in ("feeder.lock", "feeder.json", ".feeder.json.abc"):
        (tmp_path / name).touch(mode=0o600)
    if not is_root():
        with pytest.raises(FileFailed, match=r"cannot take over .*: Operation not permitted"):
            privileges._give(tmp_path, OTHER, OTHER)
        return
    privileges._give(tmp_path, OTHER, OTHER)
    assert [(tmp_path / name).stat().st_uid for name in (".", "feeder.lock")] == [OTHER] * 2
    privileges._give(tmp_path, 0, 0)
    assert [(tmp_path / name).stat().st_uid for name in (".", "feeder.lock")] == [0] * 2


def linked(lock: Path) -> None:
    lock.with_name("feeder.other").touch()
    lock.hardlink_to(lock.with_name("feeder.other"))


@pytest.mark.parametrize(
    ("plant", "why"),
    [
        (lambda lock: lock.symlink_to("/etc/passwd"), "Too many levels of symbolic links"),
        (os.mkfifo, "it is not a file of its own"),
        (lambda lock: lock.mkdir(), "it is not a file of its own"),
        (linked, "it is not a file of its own"),
    ],
)
def test_a_lock_that_is_no_lock_is_given_to_nobody(
    tmp_path: Path, plant: Callable[[Path], None], why: str
) -> None:
    plant(tmp_path / "feeder.lock")
    with pytest.raises(FileFailed, match=f"cannot take over .*: {why}"):
        privileges._give(tmp_path, OTHER, OTHER)
    assert (tmp_path.stat().st_uid, Path("/etc/passwd").stat().st_uid) == (os.getuid(), 0)


def test_a_running_feeder_keeps_what_it_has(tmp_path: Path) -> None:
    def hold() -> files.Lock:
        lock = files.Lock(tmp_path / "feeder.lock", mode=0o600)
        assert lock.acquire("virtrng feed (pid 7)") is None
        return lock

    with child_after(hold), pytest.raises(FeederRunning) as caught:
        privileges._give(tmp_path, OTHER, OTHER)
    assert str(caught.value) == f"{tmp_path} is in use by virtrng feed (pid 7)"
    assert tmp_path.stat().st_uid == os.getuid()


def test_where_no_directory_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(VirtrngError, match=r"cannot make .*/file/run: Not a directory"):
        privileges._give(tmp_path / "file" / "run", os.getuid(), os.getgid())
