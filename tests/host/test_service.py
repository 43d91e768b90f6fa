# SPDX-License-Identifier: LGPL-2.1-or-later
"""Does the service feed, in its sandbox, under real systemd and udev, from a key that comes and goes?"""

import json

from tests.host import steps
from tests.host.machine import BootedHost

CAP_SYS_ADMIN = f"{1 << 21:016x}"
SCRAPE = "python3 -c 'import urllib.request as r; print(r.urlopen(\"http://127.0.0.1:9877/metrics\").read().decode())'"


def test_it_is_ready_without_a_key_and_says_that_it_waits(keyless: BootedHost) -> None:
    steps.wait_for_status_line(keyless, "no key feeds the pool: no supported key is plugged in")
    keyless.wait_until(
        "journalctl -b -u virtrng-feeder -p warning -o cat | grep -q '^no supported key is plugged in'",
        "a warning in the journal",
    )
    assert steps.shown(keyless, "virtrng-feeder", "ActiveState", "Type") == ["active", "notify"]
    assert steps.feeder(keyless)["waiting"] == "no supported key is plugged in"


def test_the_target_is_reached_with_the_first_seed(keyless: BootedHost) -> None:
    keyless.run("systemctl start --no-block virtrng-ready.target")
    keyless.wait_until("systemctl show virtrng-ready -p SubState | grep -q start", "the gate to be running")
    assert steps.shown(keyless, "virtrng-ready.target", "ActiveState") == ["inactive"]
    steps.plug(keyless)
    steps.pair(keyless)
    keyless.wait_until("systemctl is-active --quiet virtrng-ready.target", "the target")
    assert steps.feeder(keyless)["kernel"]["seeds"] > 0


def test_a_key_is_fed_from_and_found_again_after_it_was_pulled(fed: BootedHost) -> None:
    steps.wait_for_status_line(fed, f"fed by {steps.KEY} (simulated by virtrng)")
    steps.unplug(fed)
    steps.wait_for_status_line(fed, "no key feeds the pool")
    before = steps.feeder(fed)
    assert [key["state"] for key in before["keys"]] == ["absent"]
    steps.plug(fed)
    steps.wait_for_status_line(fed, f"fed by {steps.KEY} (simulated by virtrng)")
    steps.wait_for_seeds(fed, before["kernel"]["seeds"] + 1)
    assert steps.feeder(fed)["pid"] == before["pid"]


def test_any_user_sees_that_it_feeds(fed: BootedHost) -> None:
    found = json.loads(fed.run(f"{steps.AS_NOBODY} virtrng status --json"))["feeder"]
    (key,) = found["status"]["keys"]
    assert found["running"]
    assert (key["serial"], key["state"], key["simulated"]) == (steps.KEY.partition("=")[2], "ok", True)


def test_only_the_one_that_seeds_has_a_capability(fed: BootedHost) -> None:
    def held(pid: int) -> dict[str, str]:
        lines = fed.run(f"cat /proc/{pid}/status").splitlines()
        return dict(line.split(":\t", 1) for line in lines if ":\t" in line)

    reader, injector = (held(pid) for pid in steps.pids(fed))
    uid = fed.run("id -u virtrng")
    for process in (reader, injector):
        assert process["Uid"].split() == [uid] * 4
        assert (process["CapBnd"], process["NoNewPrivs"], process["Seccomp"]) == (CAP_SYS_ADMIN, "1", "2")
    assert {reader[name] for name in ("CapPrm", "CapEff", "CapAmb")} == {f"{0:016x}"}
    assert (injector["CapPrm"], injector["CapEff"]) == (CAP_SYS_ADMIN, CAP_SYS_ADMIN)


def test_its_files_are_its_own_and_one_is_for_everybody(fed: BootedHost) -> None:
    assert fed.run("stat -c '%n %U %G %a' /run/virtrng /run/virtrng/* /etc/virtrng/keyring").splitlines() == [
        "/run/virtrng virtrng virtrng 755",
        "/run/virtrng/feeder.json virtrng virtrng 644",
        "/run/virtrng/feeder.lock virtrng virtrng 600",
        "/etc/virtrng/keyring root virtrng 640",
    ]


def test_metrics_come_over_a_socket_that_it_was_handed(fed: BootedHost) -> None:
    assert "AF_INET" not in steps.shown(fed, "virtrng-feeder", "RestrictAddressFamilies")[0]
    metrics = fed.run(SCRAPE).splitlines()
    assert f'virtrng_key_state{{key="{steps.KEY}",state="ok"}} 1.0' in metrics


def test_stopped_it_gives_a_last_seed_and_its_files_stay(fed: BootedHost) -> None:
    given = steps.feeder(fed)
    enough = given["keys"][0]["blocks_tested"] + 1
    steps.wait_for_feeder(
        fed, lambda now: now["keys"][0]["blocks_tested"] >= enough, "a block that is not given yet"
    )
    uptime = fed.run("cut -d ' ' -f 1 /proc/uptime")
    inode = fed.run("stat -c %i /run/virtrng")
    fed.run("systemctl stop virtrng-feeder")
    assert steps.shown(fed, "virtrng-feeder", "ActiveState", "Result", "ExecMainStatus") == [
        "inactive",
        "success",
        "0",
    ]
    assert steps.feeder(fed)["kernel"]["last_seed_boottime_s"] >= float(uptime)
    assert fed.run("stat -c %i /run/virtrng") == inode
    assert steps.shown(fed, "virtrng-metrics.socket", "ActiveState") == ["inactive"]
