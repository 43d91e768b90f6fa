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

from tests.unit.support import ROOT
from virtrng import __version__, config, render
from virtrng.config import DEFAULTS, KeySettings, Rule
from virtrng.domain.rng import from_element

SAMPLE = "virtrng.toml"
UNIT = "virtrng-feeder.service"


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
    assert found.domains.source == DEFAULTS.domains.source
    assert found.domains.rate == DEFAULTS.domains.rate
    assert found.domains.require == DEFAULTS.domains.require
    assert found.domains.require_feeder == DEFAULTS.domains.require_feeder
    assert found.keys == (KeySettings("SERIAL", 0.5),)
    assert found.domains.rules == (Rule(match="build-*", os="*debian*", require="refuse"),)


def test_the_sample_shows_every_setting() -> None:
    text = uncommented()
    for name in ("interval_s", "reseed", "serial", "min_entropy", "source", "rate", "bytes", "period_ms",
                 "require", "require_feeder", "match", "os", "run_dir"):  # fmt: skip
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


# --- the unit


def exec_start(text: str) -> str:
    (line,) = re.findall(r"(?m)^ExecStart=(.*)$", text)
    return str(line)


def test_from_a_checkout_the_unit_runs_the_checkout() -> None:
    command = exec_start(render.render(UNIT, DEFAULTS))
    assert command == f"/usr/bin/python3 {ROOT}/virtrng feed"
    run = subprocess.run(
        [*command.split(), "--help"], capture_output=True, text=True, cwd="/", env={}, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("usage: virtrng feed")


def test_installed_it_runs_the_console_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "virtrng"
    script.write_text("#!/bin/sh\n")
    monkeypatch.setattr(sys, "argv", [str(script), "render", UNIT])
    assert exec_start(render.render(UNIT, DEFAULTS)) == f"{script} feed"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["virtrng"])
    assert exec_start(render.render(UNIT, DEFAULTS)) == f"{script} feed", "systemd wants a whole path"


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT
    unit.write_text(render.render(UNIT, DEFAULTS))
    run = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True,
        text=True,
        env=os.environ | {"SYSTEMD_LOG_LEVEL": "warning"},
        check=False,
    )
    about_us = [line for line in run.stderr.splitlines() if "virtrng" in line]
    assert (run.returncode, about_us) == (0, [])


def test_the_unit_needs_no_more_than_it_says() -> None:
    text = render.render(UNIT, DEFAULTS)
    assert "\nCapabilityBoundingSet=CAP_SYS_ADMIN\n" in text
    assert "\nRuntimeDirectory=virtrng\n" in text
    assert DEFAULTS.paths.run_dir == Path("/run/virtrng")
    assert "\nRuntimeDirectoryPreserve=yes\n" in text
