# SPDX-License-Identifier: LGPL-2.1-or-later
"""The templates, filled in from what the code itself holds true. The only import of jinja2."""

import ipaddress
import sys
from pathlib import Path

import jinja2

from virtrng import __version__, config
from virtrng.domain import rng, xml
from virtrng.keys import KEYS
from virtrng.paths import data_file

# Each with the file that it is for.
TEMPLATES = {
    "virtrng.toml": "/etc/virtrng/virtrng.toml",
    "virtrng.sysusers": "/etc/sysusers.d/virtrng.conf",
    "60-virtrng.rules": "/etc/udev/rules.d/60-virtrng.rules",
    "virtrng-feeder.service": "/etc/systemd/system/virtrng-feeder.service",
    "virtrng-ready.service": "/etc/systemd/system/virtrng-ready.service",
    "virtrng-ready.target": "/etc/systemd/system/virtrng-ready.target",
    "virtrng-metrics.socket": "/etc/systemd/system/virtrng-metrics.socket",
    "virtrng-watch.sysusers": "/etc/sysusers.d/virtrng-watch.conf",
    "virtrng-watch.service": "/etc/systemd/system/virtrng-watch.service",
    "virtrng-watch-metrics.socket": "/etc/systemd/system/virtrng-watch-metrics.socket",
}
RNG = "rng.xml"
NAMES = (*TEMPLATES, RNG)

METRICS = config.Listen("127.0.0.1", 9877)
WATCH_METRICS = config.Listen("127.0.0.1", 9878)


def render(name: str, settings: config.Config) -> str:
    """Return the text of `name`, one of NAMES."""
    if name == RNG:
        domains = settings.domains
        device = rng.RngDevice(source=domains.source, rate=domains.rate, alias=rng.ALIAS)
        return xml.pretty(rng.to_element(device))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_file("templates")),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  configuration files, not HTML
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    listen = settings.metrics.listen or METRICS
    if name == "virtrng-watch-metrics.socket":
        listen = settings.metrics.watch_listen or WATCH_METRICS
    return environment.get_template(f"{name}.j2").render(
        version=__version__,
        defaults=config.DEFAULTS,
        sources=config.SAFE_SOURCES,
        require=config.REQUIRE,
        config_file=config.DEFAULT_FILE,
        command=_command(),
        keys=KEYS,
        listen=listen,
        loopback=ipaddress.ip_address(listen.host).is_loopback,
    )


def _command() -> str:
    """Return how this very installation is run: the console script, or the checkout."""
    script = Path(sys.argv[0])
    if script.name == "virtrng" and script.is_file():
        return str(script.absolute())
    return f"/usr/bin/python3 {data_file('virtrng/__main__.py').parent}"
