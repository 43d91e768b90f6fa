# SPDX-License-Identifier: LGPL-2.1-or-later
"""What `virtrng status` says of guests that nobody asked a device for, but the configuration."""

from pathlib import Path
from typing import Any

from tests.lab.conftest import NewGuest
from tests.lab.guest import LabGuest
from tests.lab.host import LabHost
from tests.lab.product import FOREIGN, definition, virtrng
from tests.lab.watching import Watching


def shown(guest: LabGuest, config: Path) -> dict[str, Any]:
    """Return what `virtrng status --json` shows of a guest."""
    document = virtrng(guest.host, "status", "--json", config=config).document
    (found,) = (one for one in document["guests"] if one["name"] == guest.name)
    assert isinstance(found, dict)
    return found


def test_it_is_what_the_watcher_would_bring_about(
    lab_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    old, watching = new_guest(), Watching(lab_host, tmp_path)
    assert (shown(old, watching.config)["policy"], shown(old, watching.config)["differs"]) == ("", [])
    with watching:
        pass
    assert shown(old, watching.config)["policy"] == "left alone (here before the watcher)"
    assert shown(old, watching.config)["differs"] == []
    new, other = new_guest(), new_guest(extra_devices=FOREIGN)
    assert shown(new, watching.config)["policy"] == "/dev/random, 4096 B/1000 ms"
    (difference,) = shown(new, watching.config)["differs"]
    assert difference["what"] == "definition: no virtio-rng"
    assert shown(other, watching.config)["differs"] == []
    checked = virtrng(lab_host, "status", "--check", config=watching.config)
    assert checked.code == 1
    assert f"{new.name}: definition: no virtio-rng; 'virtrng enable {new.name}'" in checked.out
    assert f"{old.name}: " not in checked.out
    watching.configure(f'[[domains.rule]]\nmatch = "{new.name}"\nmanage = "off"')
    assert shown(new, watching.config)["policy"] == 'left alone (manage = "off")'
    watching.configure('[domains]\nmanage = "all"')
    assert [one["what"] for one in shown(old, watching.config)["differs"]] == ["definition: no virtio-rng"]


def test_a_memory_that_tells_nothing_hides_nothing(
    lab_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    guest, watching = new_guest(), Watching(lab_host, tmp_path)
    with watching:
        pass
    (memory,) = watching.state_dir.glob("*.json")
    memory.write_text("{")
    assert shown(guest, watching.config)["policy"] == ""


def test_snapshots_that_a_refusing_hook_does_not_let_come_back(
    lab_host: LabHost, new_guest: NewGuest, tmp_path: Path
) -> None:
    guest, config = new_guest(), tmp_path / "virtrng.toml"
    domain = definition(guest)
    snapshot = f"<domainsnapshot><name>old</name><state>shutoff</state><creationTime>1</creationTime>{domain}"
    lab_host.virsh(
        "snapshot-create", guest.name, "/dev/stdin", "--redefine", stdin=f"{snapshot}</domainsnapshot>"
    )
    virtrng(lab_host, "enable", guest.name)
    config.write_text('[domains]\nrequire = "warn"')
    assert shown(guest, config)["differs"] == []
    config.write_text('[domains]\nrequire = "refuse"')
    (difference,) = shown(guest, config)["differs"]
    assert difference["what"] == "a revert to 1 of its snapshots is refused: no virtio-rng"
    lab_host.virsh("snapshot-delete", guest.name, "old", "--metadata")
