"""Which of the calls that wait at a gate goes next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.errors import SpecError
from avm.io.fair import QUANTUM, RISES_AFTER, TURNS, URGENT_AFTER, FairQueue

CLASSES = ("user", "normal", "background")


@attrs.define(eq=False)
class Waiting:
    priority: str = "normal"
    agent: str = "a"
    cost: int = 1_000
    asked: float = 0.0
    withdrawn: bool = False


def queue_of(*items: Waiting) -> FairQueue[Waiting]:
    queue: FairQueue[Waiting] = FairQueue()
    for item in items:
        queue.put(item)
    return queue


def drain(queue: FairQueue[Waiting], now: float = 0.0) -> Iterator[Waiting]:
    while (item := queue.take(now)) is not None:
        yield item


def take(queue: FairQueue[Waiting], count: int, now: float = 0.0) -> list[Waiting]:
    found = [queue.take(now) for _ in range(count)]
    return [item for item in found if item is not None]


# Between classes.


@given(ahead=st.integers(0, 42))
def test_of_any_21_calls_in_a_row_16_are_user_4_normal_and_1_background(ahead: int) -> None:
    queue = queue_of(*(Waiting(priority) for priority in TURNS * 3))
    take(queue, ahead)

    shares = Counter(item.priority for item in take(queue, 21))

    assert shares == {"user": 16, "normal": 4, "background": 1}


@given(first=st.sampled_from(CLASSES), second=st.sampled_from(CLASSES))
def test_two_classes_that_wait_share_as_their_turns_are(first: str, second: str) -> None:
    queue = queue_of(*(Waiting(priority) for priority in {first, second} for _ in range(100)))
    turns = {priority: TURNS.count(priority) for priority in {first, second}}

    assert Counter(item.priority for item in take(queue, sum(turns.values()))) == turns


def test_a_class_that_waits_alone_gets_every_turn() -> None:
    items = [Waiting("background") for _ in range(50)]

    assert list(drain(queue_of(*items))) == items


@pytest.mark.slow
def test_a_user_is_next_before_10_000_background_calls() -> None:
    queue = queue_of(*(Waiting("background", f"a{n % 50}") for n in range(10_000)))
    take(queue, 100)
    user = Waiting("user", "u")
    queue.put(user)

    assert queue.take(0.0) is user


@pytest.mark.slow
def test_a_user_stands_behind_one_of_10_000_background_calls_that_have_grown_old() -> None:
    queue = queue_of(*(Waiting("background", f"a{n % 50}") for n in range(10_000)))
    now = URGENT_AFTER + 1
    take(queue, 500, now)
    user = Waiting("user", "u", cost=50_000, asked=now)
    queue.put(user)

    assert user in take(queue, 3, now)


@given(
    waiting=st.lists(st.builds(Waiting, st.sampled_from(("normal", "background"))), max_size=30),
    ahead=st.integers(0, 29),
    cost=st.integers(1, 200_000),
)
def test_a_user_who_comes_alone_is_one_of_the_next_two(waiting: list[Waiting], ahead: int, cost: int) -> None:
    queue = queue_of(*waiting)
    take(queue, ahead)
    user = Waiting("user", "u", cost)
    queue.put(user)

    assert user in take(queue, 2)


# Between agents of a class.


def test_an_agent_with_prompts_ten_times_as_long_gets_a_tenth_of_the_calls() -> None:
    queue = queue_of(*(Waiting(agent="short", cost=1_000) for _ in range(200)))
    for _ in range(200):
        queue.put(Waiting(agent="long", cost=10_000))

    calls = Counter(item.agent for item in take(queue, 110))

    assert calls == {"short": 100, "long": 10}


def test_a_thousand_calls_of_one_agent_do_not_hold_up_the_first_of_another() -> None:
    queue = queue_of(*(Waiting(agent="many") for _ in range(1_000)))
    one = Waiting(agent="one")
    queue.put(one)

    assert one in take(queue, 2)


def test_agents_with_equal_calls_take_turns_in_the_order_in_which_they_came() -> None:
    queue = queue_of(*(Waiting(agent=agent) for agent in "abc" for _ in range(2)))

    assert "".join(item.agent for item in drain(queue)) == "abcabc"


def test_an_agent_that_asks_again_after_each_reply_does_not_get_ahead() -> None:
    """Most agents have one call waiting: what they got is not forgotten to their advantage."""
    queue = queue_of(*(Waiting(agent="crowd", cost=2_000) for _ in range(100)))
    served = Counter[str]()
    queue.put(Waiting(agent="eager", cost=10_000))
    for _ in range(60):
        item = queue.take(0.0)
        assert item is not None
        served[item.agent] += item.cost
        if item.agent == "eager":
            queue.put(Waiting(agent="eager", cost=10_000))

    assert abs(served["eager"] - served["crowd"]) <= 10_000 + QUANTUM


@given(
    costs=st.lists(st.lists(st.integers(1, 30_000), min_size=1, max_size=4), min_size=2, max_size=6),
    priority=st.sampled_from(CLASSES),
    count=st.integers(1, 60),
)
def test_agents_that_always_wait_get_equal_tokens_but_for_one_call_and_one_round(
    costs: list[list[int]], priority: str, count: int
) -> None:
    queue: FairQueue[Waiting] = FairQueue()
    for n, cycle in enumerate(costs):
        for turn in range(count + 1):
            queue.put(Waiting(priority, f"a{n}", cycle[turn % len(cycle)]))

    got = Counter({f"a{n}": 0 for n in range(len(costs))})
    for item in take(queue, count):
        got[item.agent] += item.cost
        assert max(got.values()) - min(got.values()) <= max(map(max, costs)) + QUANTUM


def test_a_call_of_a_million_tokens_does_not_take_a_thousand_laps() -> None:
    queue = queue_of(Waiting(cost=1_000_000), Waiting(agent="b", cost=1))

    assert [item.agent for item in drain(queue)] == ["b", "a"]


@pytest.mark.parametrize("cost", [0, -5_000])
def test_calls_that_cost_nothing_take_turns_like_others(cost: int) -> None:
    other = Waiting(agent="b")
    queue = queue_of(*(Waiting(cost=cost) for _ in range(5)), other)

    assert other in take(queue, 2)


def test_an_agent_of_which_nothing_waits_leaves_nothing_behind() -> None:
    queue: FairQueue[Waiting] = FairQueue()
    for n in range(3_000):
        item = Waiting(agent=f"a{n}")
        queue.put(item)
        if n % 2:
            queue.withdraw(item)
        else:
            queue.take(0.0)

    assert len(queue) == 0
    for kind in queue._classes.values():
        assert not kind.accounts
        assert (len(kind.line), len(kind.ages)) == (0, 0)
        assert len(kind.line._heap) + len(kind.ages._heap) <= 200


def test_calls_that_come_and_go_behind_one_that_stays_do_not_pile_up() -> None:
    queue = queue_of(Waiting("user", "stays"))
    for n in range(2_000):
        item = Waiting("user", f"a{n}", asked=float(n))
        queue.put(item)
        queue.withdraw(item)

    assert sum(len(kind.line._heap) + len(kind.ages._heap) for kind in queue._classes.values()) <= 200


# Age.


def test_a_normal_call_that_has_waited_long_shares_the_turns_of_the_users() -> None:
    old = Waiting("normal", asked=0.0)
    now = RISES_AFTER + 1
    queue = queue_of(*(Waiting("user", "u", asked=now) for _ in range(50)), old)

    assert old in take(queue, 2, now)


def test_a_call_that_has_waited_just_so_long_has_not_risen() -> None:
    old = Waiting("normal", asked=0.0)
    queue = queue_of(*(Waiting("user", "u") for _ in range(50)), old)

    assert old not in take(queue, 3, RISES_AFTER)


@pytest.mark.parametrize(
    ("waited", "before"),
    [(RISES_AFTER, 20), (RISES_AFTER + 1, 7), (URGENT_AFTER, 7), (URGENT_AFTER + 1, 1)],
)
def test_a_background_call_goes_the_sooner_the_older_it_is(waited: float, before: int) -> None:
    """Alone of its class it has one turn in 21, then every second one of the normal ones, then of the users'."""
    now = 200.0
    old = Waiting("background", "old", asked=now - waited)
    queue = queue_of(*(Waiting(kind, kind, asked=now) for kind in CLASSES[:2] for _ in range(100)), old)

    assert take(queue, 21, now).index(old) == before


def test_a_crowd_of_old_calls_gets_its_own_turns_and_half_of_those_of_the_users() -> None:
    now = URGENT_AFTER + 1
    queue = queue_of(*(Waiting("background", f"a{n % 9}") for n in range(100)))
    for _ in range(50):
        queue.put(Waiting("user", "u", asked=now))

    first = take(queue, 34, now)

    # Two rounds in which nobody normal waits: 2 turns of their own, and 16 of 32.
    assert Counter(item.priority for item in first) == {"user": 16, "background": 18}


@given(st.lists(st.sampled_from(CLASSES), min_size=1, max_size=40))
def test_nothing_starves_while_users_never_stop_coming(waiting: list[str]) -> None:
    """One call leaves every second and one user comes: once they are old, those who waited get every second turn."""
    crowd = [Waiting(priority, f"a{n % 7}") for n, priority in enumerate(waiting)]
    queue = queue_of(*crowd)
    left = set(crowd)
    for second in range(int(URGENT_AFTER) + 3 * len(crowd)):
        queue.put(Waiting("user", "u", asked=float(second)))
        item = queue.take(float(second))
        left.discard(item or crowd[0])

    assert not left


@given(
    calls=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 9_000), st.floats(-1_000, 0)),
        min_size=1,
        max_size=40,
    ),
    priority=st.sampled_from(CLASSES),
    now=st.floats(0, 1_000),
)
def test_among_calls_of_one_class_their_ages_decide_nothing(
    calls: list[tuple[str, int, float]], priority: str, now: float
) -> None:
    old = [Waiting(priority, agent, cost, asked) for agent, cost, asked in calls]
    young = [Waiting(priority, agent, cost, now) for agent, cost, _ in calls]

    left = [(item.agent, item.cost) for item in drain(queue_of(*old), now)]

    assert left == [(item.agent, item.cost) for item in drain(queue_of(*young), now)]


@given(waited=st.lists(st.floats(0, 1_000), min_size=30, max_size=30), now=st.floats(0, 1_000))
def test_the_old_of_a_class_share_the_turns_of_the_users_in_the_order_of_their_class(
    waited: list[float], now: float
) -> None:
    crowd = [Waiting("normal", f"a{n % 7}", asked=now - seconds) for n, seconds in enumerate(waited)]
    users = [Waiting("user", f"u{n % 7}", asked=now) for n in range(30)]

    left = list(drain(queue_of(*users, *crowd), now))

    assert [item for item in left if item.priority == "normal"] == list(drain(queue_of(*crowd), now))


def test_in_a_storm_that_lasts_for_minutes_nobody_is_served_a_round_before_another() -> None:
    """Each of 100 agents makes five calls, one after the other; one leaves a second, so all of them grow old."""
    queue = queue_of(*(Waiting(agent=f"a{n}") for n in range(100)))
    served = Counter[str]()
    for second in range(500):
        item = queue.take(float(second))
        assert item is not None
        served[item.agent] += 1
        if served[item.agent] < 5:
            queue.put(Waiting(agent=item.agent, asked=float(second)))
        assert second < 99 or max(served.values()) - min(served.values()) <= 1


def test_of_two_classes_that_have_grown_old_the_higher_shares_the_turns_of_the_users() -> None:
    now = URGENT_AFTER + 1
    queue = queue_of(*(Waiting(kind, kind) for kind in CLASSES[1:] for _ in range(9)))
    for _ in range(9):
        queue.put(Waiting("user", "u", asked=now))

    first = [item.priority for item in take(queue, 3, now)]

    assert first == ["user", "normal", "user"]


def test_the_age_of_a_call_that_is_tried_again_counts() -> None:
    now = 300.0
    queue = queue_of(*(Waiting("user", "u", asked=now) for _ in range(50)))
    again = Waiting("normal", "n", asked=now - URGENT_AFTER - 1)
    queue.put_front(again)

    assert again in take(queue, 2, now)


# Back into the queue.


def test_a_call_that_is_tried_again_goes_before_its_agents_others() -> None:
    first, second, third = Waiting(), Waiting(), Waiting()
    queue = queue_of(first, second)
    queue.put_front(third)

    assert list(drain(queue)) == [third, first, second]


def test_a_call_that_is_put_back_is_next_again() -> None:
    queue = queue_of(*(Waiting(kind, agent) for agent in "ab" for kind in CLASSES for _ in range(3)))
    for _ in range(18):
        item = queue.take(0.0)
        assert item is not None

        queue.put_back(item)

        assert queue.take(0.0) is item


def test_a_dear_call_that_was_put_back_does_not_hold_up_who_comes_then() -> None:
    dear, cheap = Waiting(agent="a", cost=50_000), Waiting(agent="b")
    queue = queue_of(dear)
    assert queue.take(0.0) is dear
    queue.put_back(dear)
    queue.put(cheap)

    assert list(drain(queue)) == [cheap, dear]


def test_a_follower_that_is_put_back_after_others_were_taken_is_not_charged_twice() -> None:
    parked, crowd = Waiting(agent="a", cost=40_000), [Waiting(agent="b", cost=40_000) for _ in range(3)]
    queue = queue_of(parked, *crowd)
    assert take(queue, 2) == [parked, crowd[0]]

    queue.put_back(parked)

    assert queue.take(0.0) is parked


def test_a_follower_that_has_grown_old_meanwhile_is_still_paid_for() -> None:
    parked = Waiting(agent="a", cost=40_000)
    others = [Waiting(agent="b", cost=1_000) for _ in range(90)]
    queue = queue_of(parked, *others)
    while queue.take(0.0) is not parked:
        pass
    queue.take(0.0)

    queue.put_back(parked)

    now = RISES_AFTER + 1
    assert parked in take(queue, 2, now)


@given(
    waiting=st.lists(
        st.builds(
            Waiting,
            st.sampled_from(CLASSES),
            st.sampled_from("abc"),
            st.integers(1, 9_000),
            st.floats(-150, 0),
        ),
        min_size=1,
        max_size=30,
    ),
    refused=st.sets(st.integers(0, 29)),
)
def test_taking_and_putting_back_changes_nothing_of_what_follows(
    waiting: list[Waiting], refused: set[int]
) -> None:
    plain = list(drain(queue_of(*waiting)))
    queue = queue_of(*waiting)
    for n, expected in enumerate(plain):
        for _ in range(2 if n in refused else 0):
            item = queue.take(0.0)
            assert item is expected
            queue.put_back(item)
        assert queue.take(0.0) is expected


# Passing one that there is no room for.


def test_what_there_is_no_room_for_is_passed_by_higher_classes_only() -> None:
    queue = queue_of(*(Waiting(kind, f"{kind} {n}") for kind in CLASSES for n in range(2)))
    while (large := queue.take(0.0)) is not None and large.priority != "normal":
        pass
    assert large is not None
    queue.put(Waiting("user", "late"))

    queue.put_back(large)
    passing = queue.take(0.0, above="normal")

    assert passing is not None
    assert passing.agent == "late"
    assert queue.take(0.0, above="normal") is None
    assert queue.take(0.0, above="user") is None


@given(
    waiting=st.lists(
        st.builds(Waiting, st.sampled_from(CLASSES), st.sampled_from("abc"), st.integers(1, 9_000)),
        min_size=1,
        max_size=30,
    ),
    ahead=st.integers(0, 29),
    passing=st.integers(0, 30),
)
def test_what_was_passed_is_next_whoever_has_passed_it(
    waiting: list[Waiting], ahead: int, passing: int
) -> None:
    queue = queue_of(*waiting)
    take(queue, ahead)
    held = queue.take(0.0)
    if held is None:
        return
    queue.put_back(held)

    for _ in range(passing):
        item = queue.take(0.0, above=held.priority)
        assert item is None or CLASSES.index(item.priority) < CLASSES.index(held.priority)

    assert queue.take(0.0) is held


def test_one_that_passes_and_finds_no_room_either_is_put_back_too() -> None:
    large, user, other = Waiting("background"), Waiting("user", "u"), Waiting("user", "v")
    queue = queue_of(large)
    assert queue.take(0.0) is large
    queue.put_back(large)
    queue.put(user)
    queue.put(other)

    assert queue.take(0.0, above="background") is user
    queue.put_back(user)

    assert queue.take(0.0, above="background") is user


# Out of the queue.


def test_a_call_that_is_withdrawn_twice_counts_once() -> None:
    one, two = Waiting(), Waiting()
    queue = queue_of(one, two)

    queue.withdraw(one)
    queue.withdraw(one)

    assert (len(queue), one.withdrawn) == (1, True)
    assert list(drain(queue)) == [two]


def test_withdrawing_what_is_not_in_the_queue_does_nothing() -> None:
    taken, never = Waiting(), Waiting()
    queue = queue_of(taken, Waiting())
    queue.take(0.0)

    queue.withdraw(taken)
    queue.withdraw(never)

    assert (len(queue), taken.withdrawn, never.withdrawn) == (1, False, False)


def test_an_agent_whose_dear_first_call_is_withdrawn_goes_on_with_the_next() -> None:
    dear, cheap = Waiting(cost=100_000), Waiting(cost=500)
    queue = queue_of(dear, cheap, *(Waiting(agent="b") for _ in range(5)))

    queue.withdraw(dear)

    assert cheap in take(queue, 2)


def test_what_an_agent_saved_for_a_call_that_was_withdrawn_does_not_turn_back_the_rounds() -> None:
    dear = Waiting(agent="a", cost=100_000)
    queue = queue_of(dear, Waiting(agent="a"), *(Waiting(agent="b") for _ in range(80)))
    take(queue, 50)
    queue.withdraw(dear)
    take(queue, 1)
    for _ in range(30):
        queue.put(Waiting(agent="c"))

    assert Counter(item.agent for item in take(queue, 20)) == {"b": 10, "c": 10}


# Bad input, and what it shows.


def test_an_unknown_priority_is_refused_by_name() -> None:
    with pytest.raises(SpecError, match="priority of a call of critic must be 'user', .* got 'urgent'"):
        queue_of(Waiting("urgent", "critic"))


def test_a_call_that_is_in_the_queue_cannot_be_put_there_again() -> None:
    item = Waiting(agent="critic")
    queue = queue_of(item)

    for again in (queue.put, queue.put_front, queue.put_back):
        with pytest.raises(SpecError, match="critic is in the queue already"):
            again(item)

    assert list(drain(queue)) == [item]


def test_the_queue_shows_its_depth_by_class_and_its_oldest_call() -> None:
    queue = queue_of(Waiting("user", asked=9.0), Waiting("normal", asked=3.0), Waiting("normal", asked=5.0))

    assert queue.depth() == {"user": 1, "normal": 2, "background": 0}
    assert queue.oldest() == 3.0


def test_a_call_that_has_risen_counts_in_the_class_it_came_with() -> None:
    queue = queue_of(Waiting("background"), Waiting("background"))
    queue.take(URGENT_AFTER + 1)

    assert queue.depth() == {"user": 0, "normal": 0, "background": 1}
    assert queue.oldest() == 0.0


def test_an_empty_queue_gives_nothing_and_has_no_oldest() -> None:
    queue: FairQueue[Waiting] = FairQueue()

    assert (queue.take(0.0), queue.oldest(), len(queue)) == (None, None, 0)


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(("put", "put", "put_front", "take", "take", "put_back", "withdraw")),
        st.sampled_from(CLASSES),
        st.sampled_from("abc"),
        st.integers(1, 5_000),
        st.floats(0, 60),
        st.integers(0, 1_000),
    ),
    max_size=80,
)


@given(OPERATIONS)
def test_nothing_is_lost_or_doubled_whatever_comes_and_goes(operations: list[tuple]) -> None:
    queue: FairQueue[Waiting] = FairQueue()
    inside: list[Waiting] = []
    outside: list[Waiting] = []
    now = 0.0
    for name, priority, agent, cost, passed, pick in operations:
        now += passed
        if name in ("put", "put_front"):
            item = Waiting(priority, agent, cost, now)
            getattr(queue, name)(item)
            inside.append(item)
        elif name == "take":
            taken = queue.take(now)
            assert (taken is None) == (not inside)
            if taken is not None:
                inside.remove(taken)
                outside.append(taken)
        elif name == "put_back" and outside:
            item = outside.pop(-1 - pick % min(2, len(outside)))
            queue.put_back(item)
            inside.append(item)
        elif name == "withdraw" and inside:
            queue.withdraw(inside.pop(pick % len(inside)))
        assert len(queue) == len(inside)
        assert queue.depth() == {kind: sum(item.priority == kind for item in inside) for kind in CLASSES}
        assert queue.oldest() == min((item.asked for item in inside), default=None)

    assert Counter(map(id, drain(queue, now))) == Counter(map(id, inside))


@given(
    st.lists(st.tuples(st.sampled_from(CLASSES), st.sampled_from("abc"), st.integers(1, 20_000)), max_size=60)
)
def test_the_calls_of_one_agent_in_one_class_keep_their_order(waiting: list[tuple[str, str, int]]) -> None:
    items = [Waiting(priority, agent, cost) for priority, agent, cost in waiting]

    left = list(drain(queue_of(*items)))

    for key in {(item.priority, item.agent) for item in items}:
        assert [item for item in left if (item.priority, item.agent) == key] == [
            item for item in items if (item.priority, item.agent) == key
        ]
