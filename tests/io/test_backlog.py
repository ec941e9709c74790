"""The order in which calls leave the backlog."""

from collections import Counter

import attrs
from hypothesis import given
from hypothesis import strategies as st

from avm.io.backlog import WEIGHTS, Backlog


@attrs.define(eq=False)
class Waiting:
    priority: str
    number: int = 0
    withdrawn: bool = False


def drain(backlog: Backlog[Waiting]) -> list[Waiting]:
    found = []
    while (call := backlog.take()) is not None:
        found.append(call)
    return found


def test_each_class_gets_its_share_of_a_round() -> None:
    backlog: Backlog[Waiting] = Backlog()
    for n in range(300):
        backlog.put(Waiting(("background", "normal", "user")[n % 3]))

    first = [backlog.take() for _ in range(42)]

    assert Counter(call.priority for call in first if call) == {"user": 32, "normal": 8, "background": 2}


def test_a_class_that_waits_alone_gets_everything() -> None:
    backlog: Backlog[Waiting] = Backlog()
    for n in range(50):
        backlog.put(Waiting("background", n))

    assert [call.number for call in drain(backlog)] == list(range(50))


def test_an_empty_backlog_gives_nothing() -> None:
    assert Backlog[Waiting]().take() is None


def test_a_call_withdrawn_twice_counts_once() -> None:
    backlog: Backlog[Waiting] = Backlog()
    one, two = Waiting("user", 1), Waiting("user", 2)
    backlog.put(one)
    backlog.put(two)

    backlog.withdraw(one)
    backlog.withdraw(one)

    assert len(backlog) == 1
    assert drain(backlog) == [two]


@given(
    calls=st.lists(st.sampled_from(sorted(WEIGHTS)), max_size=60),
    gone=st.sets(st.integers(0, 59), max_size=20),
)
def test_every_call_that_is_not_withdrawn_leaves_once_and_in_the_order_of_its_class(
    calls: list[str], gone: set[int]
) -> None:
    backlog: Backlog[Waiting] = Backlog()
    waiting = [Waiting(priority, n) for n, priority in enumerate(calls)]
    for call in waiting:
        backlog.put(call)
    for call in waiting:
        if call.number in gone:
            backlog.withdraw(call)

    assert len(backlog) == len([c for c in waiting if c.number not in gone])
    left = drain(backlog)

    for priority in WEIGHTS:
        expected = [c.number for c in waiting if c.priority == priority and c.number not in gone]
        assert [c.number for c in left if c.priority == priority] == expected
    assert len(backlog) == 0
