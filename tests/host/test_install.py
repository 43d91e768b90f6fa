# SPDX-License-Identifier: LGPL-2.1-or-later
"""Do the files that 'virtrng render' prints do in a booted Debian what they are for?"""

from tests.host import steps
from tests.host.machine import BootedHost
from tests.lab.images import unpacked

EKEYD_RULES = "lib/udev/rules.d/60-ekeyd.rules"
EKEYD_TOLD = "/run/ekeyd-told"


def test_sysusers_makes_a_user_who_cannot_log_in(host: BootedHost) -> None:
    name, _, uid, gid, _, home, shell = host.run("getent passwd virtrng").split(":")
    assert (name, home, shell) == ("virtrng", "/", "/usr/sbin/nologin")
    assert 0 < int(uid) < 1000
    assert host.run("getent group virtrng").split(":")[2] == gid


def test_udev_gives_the_key_and_nothing_else_to_the_group(host: BootedHost) -> None:
    steps.plug(host)
    node = host.run("udevadm info --query=name --root /sys/bus/usb/devices/1-1")
    assert host.run(f"stat -c '%U %G %a' {node}") == "root virtrng 660"
    properties = host.run("udevadm info --query=property /sys/bus/usb/devices/1-1").splitlines()
    assert "ID_MM_DEVICE_IGNORE=1" in properties
    assert host.run("stat -c %G /dev/bus/usb/*/001 | sort -u") == "root"
    assert host.try_run("journalctl -b -t systemd-udevd -o cat | grep virtrng").output == ""


def test_udev_does_not_tell_ekeyd_of_the_key(host: BootedHost) -> None:
    steps.write(host, f"/{EKEYD_RULES}", (unpacked("ekeyd") / EKEYD_RULES).read_text())
    steps.write(host, "/lib/udev/entropykey.sh", f"#!/bin/sh\necho $ACTION $SUBSYSTEM >>{EKEYD_TOLD}\n")
    host.run("chmod 755 /lib/udev/entropykey.sh && udevadm control --reload")
    again = "udevadm trigger --action=add --settle /sys/class/tty/ttyACM0"
    try:
        host.run("systemctl stop virtrng-feeder")  # while it has the key, there is no serial port
        steps.plug(host)
        host.wait_until("[ -e /sys/class/tty/ttyACM0 ]", "cdc_acm to bind the key")
        host.run(again)
        known = host.run("udevadm info --query=property /dev/ttyACM0").splitlines()
        assert f"ENTROPY_KEY_SERIAL={steps.SERIAL_BY_UDEV}" in known
        assert host.try_run(f"cat {EKEYD_TOLD}").status != 0
        host.run("mv /etc/udev/rules.d/60-virtrng.rules /root && udevadm control --reload")
        host.run(again)
        assert host.run(f"cat {EKEYD_TOLD}") == "add tty"
    finally:
        host.try_run("mv /root/60-virtrng.rules /etc/udev/rules.d")
        host.run(f"rm -f /{EKEYD_RULES} {EKEYD_TOLD} && udevadm control --reload")
