# SPDX-License-Identifier: LGPL-2.1-or-later
"""`virtrng feed` as a real process, and as an ordinary user."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.support import NOBODY, ROOT, child_after, is_root, readable_tree
from virtrng import cli, files, status
from virtrng.errors import ExitCode

REFUSED = "virtrng: /dev/random refused RNDADDENTROPY: no CAP_SYS_ADMIN"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    file = tmp_path / "virtrng.toml"
    file.write_text(f"[paths]\nrun_dir = '{tmp_path}/run'\n")
    return file


@contextmanager
def feeding(config_file: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Start it; it is gone when the block ends, whatever happened."""
    process = subprocess.Popen(
        [sys.executable, "-m", "virtrng", "--config-file", str(config_file), "feed", *arguments],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line_with(process: "subprocess.Popen[str]", text: str) -> str:
    """Read what it says until a line has `text`; fails at its end."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line.rstrip()
    raise AssertionError(f"it ended without saying {text!r}")


def test_ended_while_it_feeds_it_gives_a_last_seed(config_file: Path, tmp_path: Path) -> None:
    with feeding(config_file, "--simulate", "entropykey") as process:
        if not is_root():
            assert line_with(process, "refused") == REFUSED
            assert process.wait() == 1
            return
        assert "mixed in with a credit of 0" in line_with(process, "session established")
        assert "0 bits credited" in line_with(process, "seeded with")
        found = status.read(tmp_path / "run")
        assert found is not None
        assert found.pid == process.pid
        assert files.holder(tmp_path / "run" / "feeder.lock") == f"virtrng feed (pid {process.pid})"
        process.send_signal(signal.SIGTERM)
        out, rest = process.communicate()
        assert (process.returncode, out, rest) == (0, "", "")
    last = status.read(tmp_path / "run")
    assert last is not None
    assert last.kernel.seeds >= 1
    assert last.kernel.seeded_bits == 0
    assert files.holder(tmp_path / "run" / "feeder.lock") is None


def test_ended_while_it_waits_for_a_key(config_file: Path) -> None:
    with feeding(config_file, "--key", "no such serial") as process:
        if not is_root():
            assert line_with(process, "refused") == REFUSED
            assert process.wait() == 1
            return
        assert "waiting for a key" in line_with(process, "waiting")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 0


def test_an_ordinary_user_is_refused_in_one_sentence(open_path: Path) -> None:
    config_file = open_path / "virtrng.toml"
    config_file.write_text(f"[paths]\nrun_dir = '{open_path}/run'\n")
    config_file.chmod(0o644)
    who = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups") if is_root() else ()
    command = ("-m", "virtrng", "--config-file", str(config_file), "feed", "--simulate", "entropykey")
    ran = subprocess.run(
        [*who, sys.executable, *command], cwd=readable_tree(open_path), capture_output=True, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr.decode().splitlines() == [
        REFUSED,
        "  the feeder needs CAP_SYS_ADMIN in the initial user namespace: run it as root, not in a container",
    ]


def test_a_second_one_is_told_who_runs(config_file: Path, tmp_path: Path) -> None:
    def hold() -> files.Lock:
        lock = files.Lock(tmp_path / "run" / "feeder.lock")
        assert lock.acquire(f"virtrng feed (pid {os.getpid()})") is None
        return lock

    with child_after(hold) as pid, feeding(config_file, "--simulate", "entropykey") as process:
        out, said = process.communicate()
    assert (process.returncode, out) == (1, "")
    in_use = f"virtrng: {tmp_path}/run is in use by virtrng feed (pid {pid})"
    assert said.splitlines()[0] == (in_use if is_root() else REFUSED)


def test_the_help_names_the_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["feed", "--help"]) == 0
    assert re.search(r"KIND: *\n? *entropykey", capsys.readouterr().out)


def test_timeout_is_for_wait(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--config-file", str(config_file), "feed", "--timeout", "3"]) == ExitCode.USAGE
    assert capsys.readouterr().err == "virtrng feed: error: --timeout is for --wait\n"


def test_a_key_or_a_simulated_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["feed", "--key", "x", "--simulate", "entropykey"]) == ExitCode.USAGE
    assert "not allowed with" in capsys.readouterr().err


@pytest.mark.parametrize("listen", ["free", "taken"])
def test_metrics_are_served_where_they_can_be_and_feeding_goes_on_where_not(
    tmp_path: Path, config_file: Path, listen: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        if listen == "free":
            taken.close()
        config_file.write_text(f"{config_file.read_text()}[metrics]\nlisten = '127.0.0.1:{port}'\n")
        with feeding(config_file, "--simulate", "entropykey") as process:
            if not is_root():
                assert line_with(process, "refused") == REFUSED
                return
            if listen == "taken":
                assert "the service goes on without them" in line_with(process, str(port))
            line_with(process, "session established")
            if listen == "free":
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
                    assert "virtrng_seeds_total 0.0" in answer.read().decode()
            process.send_signal(signal.SIGTERM)
            assert process.wait() == 0


def test_without_the_injector_it_ends(config_file: Path) -> None:
    with feeding(config_file, "--simulate", "entropykey") as process:
        if not is_root():
            assert line_with(process, "refused") == REFUSED
            return
        line_with(process, "session established")
        (injector,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(injector), signal.SIGKILL)
        told = line_with(process, "virtrng:")
        assert told.startswith("virtrng: the process that seeds the kernel's pool was killed")
        assert process.wait() == ExitCode.FAILED
