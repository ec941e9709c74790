"""The law of the style guide, as written there, imports aside (section 7, e)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from avm import child, supervisor
from avm.testing import Idle, simulate
from avm.testing.strategies import restart_types


# fmt: off
@given(types=st.lists(restart_types(), min_size=1, max_size=6), data=st.data())     # (e) a law
def test_rest_for_one_restarts_the_failed_child_and_its_younger_siblings(types, data):  # type: ignore[no-untyped-def]
    failed = data.draw(st.integers(0, len(types) - 1))
    tree = supervisor("root", strategy="rest_for_one",
                      children=[child(f"c{n}", Idle, restart=t) for n, t in enumerate(types)])
    with simulate(tree) as sim:
        sim.crash(f"c{failed}")
        starts = sim.starts()
    hit = range(failed, len(types)) if types[failed] != "temporary" else ()
    assert starts == {f"c{n}": 2 if n in hit and t != "temporary" else 1 for n, t in enumerate(types)}
# fmt: on
