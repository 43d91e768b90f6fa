# SPDX-License-Identifier: LGPL-2.1-or-later
"""virtrng's hook among others, and what it hands on: each sees what those before it said, secrets too."""

from collections.abc import Iterator

import pytest

from tests.lab.conftest import NewGuest
from tests.lab.hooks import Hooks, installed
from tests.lab.host import LabHost
from tests.lab.images import LabError
from tests.lab.product import OURS, live, rngs

PASSWORD = "hunter2"
VNC = f"<graphics type='vnc' port='-1' autoport='yes' listen='127.0.0.1' passwd='{PASSWORD}'/>"
FROM_URANDOM = 'source = "/dev/urandom"\nrate = { bytes = 32768, period_ms = 1000 }'
URANDOM = ("/dev/urandom", (32768, 1000))
SEEN = "/run/virtrng-lab/seen"
GIVES_TITLE = "[ $2 != migrate ] || sed 's|<name>|<title>by another hook</title>&|'"
GIVES_DESCRIPTION = "[ $2 != migrate ] || sed 's|<name>|<description>by a third</description>&|'"


@pytest.fixture
def there(second_host: LabHost) -> Iterator[Hooks]:
    """Yield the hooks of the host to migrate to."""
    with installed(second_host) as hooks:
        hooks.configure(FROM_URANDOM)
        yield hooks


def seen(hooks: Hooks, name: str) -> str:
    """Return what a hook that notes it was given."""
    return (hooks.host.outside(SEEN).parent / f"seen-{name}").read_text()


def note(name: str) -> str:
    """Return a hook that notes what it is given at migrate, and has nothing to say."""
    return f"[ $2 != migrate ] || cat >{SEEN}-{name}"


def test_hooks_before_and_after_ours_at_migrate(
    there: Hooks, lab_host: LabHost, second_host: LabHost, new_guest: NewGuest
) -> None:
    there.put("aa-title", GIVES_TITLE)
    there.put("ab-note", note("before"))
    there.put("zx-note", note("after"))
    there.put("zy-description", GIVES_DESCRIPTION)
    there.put("zz-note", note("last"))
    guest = new_guest(extra_devices=OURS + VNC)
    lab_host.virsh("start", guest.name)
    before = rngs(live(guest))
    guest.migrate(second_host)
    assert "by another hook" in seen(there, "before")
    assert [(one.source, one.rate) for one in rngs(seen(there, "before"))] == [
        (one.source, one.rate) for one in before
    ]
    for text in (seen(there, "after"), seen(there, "last"), live(guest)):
        assert "<title>by another hook</title>" in text
        assert [(one.source, one.rate) for one in rngs(text)] == [URANDOM]
    assert "by a third" not in seen(there, "after")
    assert "<description>by a third</description>" in live(guest)
    # The secrets came through three hooks that printed, and are those that were given.
    assert f"passwd='{PASSWORD}'" in second_host.virsh("dumpxml", "--security-info", guest.name)
    assert f'passwd="{PASSWORD}"' in seen(there, "last")
    assert PASSWORD not in second_host.log()


def test_what_another_hook_broke_is_not_made_worse(
    there: Hooks, lab_host: LabHost, second_host: LabHost, new_guest: NewGuest
) -> None:
    guest = new_guest(extra_devices=OURS)
    lab_host.virsh("start", guest.name)
    # It prints what is no domain; ours, in doubt, says nothing, and libvirt takes what the other said.
    broken = there.put("aa-broken", "[ $2 != migrate ] || echo '<domain><broken>'")
    with pytest.raises(LabError, match="virsh migrate"):
        guest.migrate(second_host)
    assert guest.state() == "running"
    broken.unlink()
    guest.migrate(second_host)
    (ours,) = rngs(live(guest))
    assert (ours.source, ours.rate) == URANDOM
