# SPDX-License-Identifier: LGPL-2.1-or-later
"""The templates, filled in."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jinja2
import pytest
from lxml import etree

from tests.unit.support import ROOT, virtrng
from virtrng import __version__, config, render
from virtrng.config import DEFAULTS, KeySettings, Rule
from virtrng.domain import watch
from virtrng.domain.rng import from_element
from virtrng.errors import ExitCode
from virtrng.feeder import privileges
from virtrng.feeder.injector import ANSWER_S
from virtrng.feeder.unit import READY_AFTER_S
from virtrng.keys import KEYS

SAMPLE = "virtrng.toml"
UNIT = "virtrng-feeder.service"
WATCH = "virtrng-watch.service"
# What systemd counts as exposed in a unit, and where that unit says why.
EXPLAINED = {
    UNIT: {
        "CapabilityBoundingSet=~CAP_SYS_ADMIN": "CAP_SYS_ADMIN ",
        "AmbientCapabilities=": "CAP_SYS_ADMIN ",
        "PrivateUsers=": "PrivateUsers= ",
        "PrivateDevices=": "PrivateDevices= ",
        "DeviceAllow=": "DeviceAllow=",
        "PrivateNetwork=": "PrivateNetwork= ",
        "RestrictAddressFamilies=~AF_NETLINK": "AF_NETLINK ",
        "RestrictAddressFamilies=~AF_UNIX": "AF_UNIX ",
        "RootDirectory=/RootImage=": "RootDirectory= ",
    },
    WATCH: {
        "DeviceAllow=": "DeviceAllow= ",
        "RestrictAddressFamilies=~AF_UNIX": "AF_UNIX ",
        "RootDirectory=/RootImage=": "RootDirectory= ",
    },
}


def is_unit(name: str) -> bool:
    return name.endswith((".service", ".socket", ".target"))


@pytest.mark.parametrize("name", render.NAMES)
def test_each_is_whole(name: str) -> None:
    text = render.render(name, DEFAULTS)
    assert "{{" not in text
    assert "{%" not in text
    assert "None" not in text
    if name in render.TEMPLATES:
        assert f"Written by virtrng {__version__}" in text
        assert text.endswith("\n")


def test_every_template_has_a_name() -> None:
    files = {file.name.removesuffix(".j2") for file in (ROOT / "templates").iterdir()}
    assert files == set(render.TEMPLATES)


def test_the_sample_as_it_stands_is_the_default() -> None:
    text = render.render(SAMPLE, DEFAULTS)
    assert config.parse(text.encode(), SAMPLE) == DEFAULTS
    assert "require" not in re.sub(r"(?m)^#.*$", "", text), "the hook's shell looks for it outside comments"


def uncommented() -> str:
    lines = render.render(SAMPLE, DEFAULTS).splitlines()
    return "\n".join(line[1:] if re.match(r"#[^ ]", line) else line for line in lines)


def test_the_sample_uncommented_is_the_default_and_its_examples() -> None:
    found = config.parse(uncommented().encode(), SAMPLE)
    assert found.feeder == DEFAULTS.feeder
    assert found.paths == DEFAULTS.paths
    assert found.domains.manage == DEFAULTS.domains.manage
    assert found.domains.source == DEFAULTS.domains.source
    assert found.domains.rate == DEFAULTS.domains.rate
    assert found.domains.require == DEFAULTS.domains.require
    assert found.domains.require_feeder == DEFAULTS.domains.require_feeder
    assert found.keys == (KeySettings("SERIAL", 0.5),)
    assert found.domains.rules == (Rule(match="build-*", os="*debian*", require="refuse"),)


def test_the_sample_shows_every_setting() -> None:
    text = uncommented()
    for name in ("interval_s", "reseed", "serial", "min_entropy", "source", "rate", "bytes", "period_ms",
                 "require", "require_feeder", "match", "os", "run_dir", "manage", "foreign", "listen",
                 "watch_listen", "state_dir"):  # fmt: skip
        assert re.search(rf"\b{name} =", text), name


def test_the_device() -> None:
    settings = config.parse(b"[domains]\nsource = '/dev/urandom'\nrate = { bytes = 7, period_ms = 9 }", "f")
    element = etree.fromstring(render.render(render.RNG, settings))
    device = from_element(element)
    assert (device.source, str(device.rate), device.ours) == ("/dev/urandom", "7 B/9 ms", True)
    assert render.render(render.RNG, DEFAULTS).splitlines() == [
        '<rng model="virtio">',
        '  <rate bytes="4096" period="1000"/>',
        '  <backend model="random">/dev/random</backend>',
        '  <alias name="ua-virtrng0"/>',
        "</rng>",
    ]


def test_a_name_that_a_template_lacks_is_an_error() -> None:
    with pytest.raises(jinja2.TemplateNotFound):
        render.render("nonesuch", DEFAULTS)


# --- the units


def exec_start(text: str) -> str:
    (line,) = re.findall(r"(?m)^ExecStart=(.*)$", text)
    return str(line)


@pytest.mark.parametrize(("unit", "does"), [(UNIT, "feed"), (WATCH, "watch")])
def test_from_a_checkout_the_unit_runs_the_checkout(unit: str, does: str) -> None:
    command = exec_start(render.render(unit, DEFAULTS))
    assert command == f"/usr/bin/python3 {ROOT}/virtrng {does}"
    run = subprocess.run(
        [*command.split(), "--help"], capture_output=True, text=True, cwd="/", env={}, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith(f"usage: virtrng {does}")


def test_installed_it_runs_the_console_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "virtrng"
    script.write_text("#!/bin/sh\n")
    monkeypatch.setattr(sys, "argv", [str(script), "render", UNIT])
    assert exec_start(render.render(UNIT, DEFAULTS)) == f"{script} feed"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["virtrng"])
    assert exec_start(render.render(UNIT, DEFAULTS)) == f"{script} feed", "systemd wants a whole path"


def rendered(directory: Path, *names: str) -> list[Path]:
    """Return these as files; the command that is installed is one that exists."""
    files = [directory / name for name in names]
    for file in files:
        file.write_text(render.render(file.name, DEFAULTS))
    return files


def systemd_analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"SYSTEMD_LOG_LEVEL": "warning"},
        check=False,
    )


@pytest.mark.parametrize("unit", [name for name in render.TEMPLATES if is_unit(name)])
def test_systemd_takes_the_unit(tmp_path: Path, unit: str) -> None:
    rendered(tmp_path, *(name for name in render.TEMPLATES if is_unit(name)))
    run = systemd_analyze("verify", "--man=no", tmp_path / unit)
    about_us = [line for line in run.stderr.splitlines() if "virtrng" in line]
    assert (run.returncode, about_us) == (0, [])


@pytest.mark.parametrize(("unit", "exposed"), [(UNIT, 1.5), ("virtrng-ready.service", 0.5), (WATCH, 0.3)])
def test_systemd_finds_little_exposed(tmp_path: Path, unit: str, exposed: float) -> None:
    (file,) = rendered(tmp_path, unit)
    threshold = f"--threshold={exposed * 10:.0f}"
    run = systemd_analyze("security", "--offline=true", "--no-pager", threshold, file)
    assert run.returncode == 0, run.stdout
    assert "Overall exposure level" in run.stdout


@pytest.mark.parametrize("unit", EXPLAINED)
def test_what_is_exposed_is_explained_in_the_unit(tmp_path: Path, unit: str) -> None:
    (file,) = rendered(tmp_path, unit)
    shown = systemd_analyze("security", "--offline=true", "--no-pager", file).stdout
    exposed = re.findall(r"(?m)^\S*✗\S* (\S+)", shown)
    explained = EXPLAINED[unit]
    assert set(exposed) == explained.keys()
    comments = "\n".join(line for line in file.read_text().splitlines() if line.startswith("#"))
    assert [why for why in explained.values() if why not in comments] == []


def settings(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"(?m)^(\w+)=(.*)$", text):
        found.setdefault(name, []).append(value)
    return found


def test_the_unit_does_what_the_feeder_counts_on() -> None:
    unit = settings(render.render(UNIT, DEFAULTS))
    assert unit["Type"] == ["notify"]
    # It executes itself anew, and stays the main process.
    assert unit["NotifyAccess"] == ["main"]
    assert unit["User"] == [privileges.USER]
    assert unit["AmbientCapabilities"] == unit["CapabilityBoundingSet"] == ["CAP_SYS_ADMIN"]
    assert f"/run/{unit['RuntimeDirectory'][0]}" == str(DEFAULTS.paths.run_dir)
    assert unit["RuntimeDirectoryPreserve"] == ["yes"]
    assert float(unit["TimeoutStartSec"][0]) > READY_AFTER_S
    assert float(unit["WatchdogSec"][0]) > ANSWER_S, "it waits so long for an answer of the injector"
    assert unit["Restart"] == ["always"]
    assert unit["RestartPreventExitStatus"] == [str(int(ExitCode.USAGE))]
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert unit["Before"] == ["libvirtd.service virtqemud.service"]


def test_the_unit_does_what_the_watcher_counts_on() -> None:
    unit = settings(render.render(WATCH, DEFAULTS))
    assert (unit["Type"], unit["NotifyAccess"]) == (["notify"], ["main"])
    user = re.findall(r"(?m)^u (\S+) ", render.render("virtrng-watch.sysusers", DEFAULTS))
    assert unit["User"] == user
    assert unit["CapabilityBoundingSet"] == [""]
    assert "AmbientCapabilities" not in unit
    assert unit["RestrictAddressFamilies"] == ["AF_UNIX"]
    paths = DEFAULTS.paths
    assert f"/run/{unit['RuntimeDirectory'][0]}" == str(paths.watch_dir)
    assert f"/var/lib/{unit['StateDirectory'][0]}" == str(paths.state_dir)
    assert (unit["RuntimeDirectoryPreserve"], unit["StateDirectoryMode"]) == (["yes"], ["0755"])
    assert float(unit["WatchdogSec"][0]) > watch.STILL_S, "it is well for so long after its event loop turned"
    assert float(unit["TimeoutStopSec"][0]) > watch.STOP_S
    assert unit["ExecReload"] == ["/bin/sh -c 'kill -HUP $MAINPID'"]
    assert (unit["Restart"], unit["StartLimitIntervalSec"]) == (["always"], ["0"])
    assert unit["RestartPreventExitStatus"] == [str(int(ExitCode.USAGE))]
    after = set(unit["After"][0].split())
    assert after == {"libvirtd.socket", "libvirtd.service", "virtqemud.socket", "virtqemud.service"}
    assert not {"Wants", "Requires", "BindsTo", "PartOf"} & unit.keys(), "it lives without any libvirtd"


def test_the_watcher_is_in_group_libvirt() -> None:
    lines = render.render("virtrng-watch.sysusers", DEFAULTS).splitlines()
    assert "m virtrng-watch libvirt" in lines


def test_the_watchers_metrics_socket_is_its_own() -> None:
    name = "virtrng-watch-metrics.socket"
    socket = settings(render.render(name, DEFAULTS))
    assert socket["ListenStream"] == ["127.0.0.1:9878"]
    assert (socket["FileDescriptorName"], socket["Service"], socket["PartOf"]) == (
        ["metrics"],
        [WATCH],
        [WATCH],
    )
    both = config.parse(b"[metrics]\nlisten = '[::]:9'\nwatch_listen = '127.0.0.1:8'", "f")
    socket = settings(render.render(name, both))
    assert (socket["ListenStream"], socket["IPAddressAllow"]) == (["127.0.0.1:8"], ["localhost"])


def test_the_metrics_socket_is_where_the_configuration_says() -> None:
    socket = settings(render.render("virtrng-metrics.socket", DEFAULTS))
    assert socket["ListenStream"] == ["127.0.0.1:9877"]
    assert (socket["IPAddressDeny"], socket["IPAddressAllow"]) == (["any"], ["localhost"])
    assert (socket["FileDescriptorName"], socket["Service"]) == (["metrics"], [UNIT])
    wider = config.parse(b"[metrics]\nlisten = '[::]:9'", "f")
    socket = settings(render.render("virtrng-metrics.socket", wider))
    assert socket["ListenStream"] == ["[::]:9"]
    assert "IPAddressDeny" not in socket


# --- udev's rules


def test_every_supported_product_has_a_rule() -> None:
    rules = render.render("60-virtrng.rules", DEFAULTS).splitlines()
    given = [rule for rule in rules if f'GROUP="{privileges.USER}"' in rule]
    products = [usb for kind in KEYS for usb in kind.usb]
    assert len(given) == len(products)
    for rule, usb in zip(given, products, strict=True):
        ids = f'ATTR{{idVendor}}=="{usb.vendor_id:04x}", ATTR{{idProduct}}=="{usb.product_id:04x}"'
        assert rule == (
            f'SUBSYSTEM=="usb", ENV{{DEVTYPE}}=="usb_device", {ids}, GROUP="virtrng", MODE="0660", '
            'ENV{ID_MM_DEVICE_IGNORE}="1"'
        )


def test_the_help_names_each_and_its_place() -> None:
    shown = virtrng("render", "--help").stdout.decode()
    for name, place in render.TEMPLATES.items():
        assert re.search(rf"(?m)^  {re.escape(name)} +{re.escape(place)}$", shown)


def test_make_install_installs_them_all() -> None:
    listed = re.findall(r"(?m)^    templates/(.*)\.j2$", (ROOT / "setup.cfg").read_text())
    assert sorted(listed) == sorted(render.TEMPLATES)
