# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever happens on the wire, only verified bytes come out, in order, and once."""

from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.scale import scaled
from virtrng.errors import WrongLongTermKey

if TYPE_CHECKING:
    from tests.unit.keys.conftest import Rig

edits = st.lists(
    st.tuples(st.integers(0, 200), st.sampled_from("fdxsn"), st.integers(0, 63), st.integers(1, 255)),
    max_size=30,
)


# make_rig is a class, and knows nothing of earlier examples.
@settings(
    derandomize=True,
    max_examples=scaled(20),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(plan=edits)
def test_no_byte_whose_mac_failed_is_ever_emitted(
    make_rig: "type[Rig]", plan: list[tuple[int, str, int, int]]
) -> None:
    rig, number = make_rig(), -1
    rig.key.start()

    def tamper(frame: bytes) -> bytes:
        nonlocal number
        number += 1
        for at, edit, where, by in plan:
            if at == number:
                frame = {
                    "f": frame[:where] + bytes((frame[where % len(frame)] ^ by,)) + frame[where + 1 :],
                    "d": frame * 2,
                    "x": b"",
                    "s": frame[where:],
                    "n": frame + bytes((by,)) * where,
                }[edit] or b"\0"
        return frame

    rig.wire.tamper = tamper
    emitted: list[bytes] = []
    try:
        while number < 220:
            noise = rig.key.read(1000)
            emitted += [] if noise is None else [noise.data]
    except WrongLongTermKey:
        pass  # two first frames after K! in a row were hit
    blocks = [piece[at : at + 32] for piece in emitted for at in range(0, len(piece), 32)]
    assert len(set(blocks)) == len(blocks)
    assert [block for block in rig.encrypted if block in set(blocks)] == blocks
