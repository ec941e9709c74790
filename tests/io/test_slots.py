"""Which slot of a local server a call gets."""

from __future__ import annotations

from avm.io.prefix import Link
from avm.io.slots import Slots


def chain(*keys: str) -> tuple[Link, ...]:
    return tuple(Link(key.encode(), 10 * (place + 1)) for place, key in enumerate(keys))


def test_an_agent_gets_the_slot_it_had_last() -> None:
    slots = Slots(2)
    first, second = slots.take("a", chain("s")), slots.take("b", chain("s"))
    assert {first, second} == {0, 1}
    assert slots.take("c", chain("s")) is None

    for slot in (first, second):
        assert slot is not None
        slots.give_back(slot)
    assert slots.take("b", chain("s")) == second
    assert slots.take("a", chain("s")) == first


def test_a_new_agent_gets_the_slot_whose_prompt_begins_most_alike() -> None:
    slots = Slots(3)
    for agent, keys in (("a", "xy"), ("b", "xz"), ("c", "q")):
        assert slots.take(agent, chain(*keys)) is not None
    for slot in range(3):
        slots.give_back(slot)

    assert slots.take("d", chain("x", "z", "w")) == 1
    assert slots.take("e", chain("x", "n")) == 0
    assert slots.take("f", chain("x")) == 2
