"""Laws of order: what one actor sends another arrives in that order, whoever runs when (S1, S2, S7, S8, S50)."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from avm.actors import Actor, Ref, on
from avm.supervision import child
from avm.testing.strategies import schedules
from tests.laws.cast import Do, Note, lines, play, stage

IDS = ("a", "b", "c")
steps = st.one_of(
    st.tuples(st.just("tell"), st.sampled_from(IDS)),
    st.tuples(st.just("tell"), st.sampled_from(IDS)),
    st.tuples(st.just("sleep"), st.sampled_from((0.0, 1.0))),
)
programs = st.lists(st.lists(steps, max_size=8), min_size=3, max_size=3)


def numbered(program: list[Any]) -> tuple[tuple[Any, ...], ...]:
    """The steps with a number for each thing told."""
    return tuple(("tell", f"stage/{s[1]}", n) if s[0] == "tell" else s for n, s in enumerate(program))


@given(first=programs, second=programs, schedule=schedules())
def test_s1_what_one_tells_another_arrives_complete_and_in_order(
    first: list[Any], second: list[Any], schedule: Any
) -> None:
    log: list[tuple[Any, ...]] = []
    with play(stage(log, IDS), schedule) as sim:
        for id, one, two in zip(IDS, first, second, strict=True):
            sim.kernel.tell(f"stage/{id}", Do(numbered(one)))
            sim.kernel.tell(f"stage/{id}", Do(tuple(numbered([("tell", "a")] * 20 + two)[20:])))
        sim.run_until_idle()

    for sender, one, two in zip(IDS, first, second, strict=True):
        told = [*numbered(one), *numbered([("tell", "a")] * 20 + two)[20:]]
        for receiver in IDS:
            sent = [step[2] for step in told if step[:2] == ("tell", f"stage/{receiver}")]
            assert [n for who, n in lines(log, receiver, "note") if who == sender] == sent


@given(
    before=st.integers(0, 6),
    after=st.integers(0, 3),
    others=st.lists(steps, max_size=5),
    reason=st.sampled_from(("shutdown", "oops", "kill")),
    schedule=schedules(),
)
def test_s2_nothing_sent_after_an_exit_signal_is_seen(
    before: int, after: int, others: list[Any], reason: str, schedule: Any
) -> None:
    log: list[tuple[Any, ...]] = []
    told = [("tell", "stage/b", n) for n in range(before + after)]
    program = (*told[:before], ("exit", "stage/b", reason), *told[before:])
    with play(stage(log, IDS), schedule) as sim:
        sim.kernel.tell("stage/c", Do(numbered(others)))
        sim.kernel.tell("stage/a", Do(program))
        sim.run_until_idle()
        assert sim.kernel.find("stage/b") is None

    seen = [n for who, n in lines(log, "b", "note") if who == "a"]
    assert seen == list(range(len(seen)))
    assert len(seen) <= before


@given(
    before=st.integers(0, 5),
    after=st.integers(0, 4),
    others=st.lists(steps, max_size=5),
    schedule=schedules(),
)
def test_s9_a_trapped_exit_goes_first_and_leaves_the_order_of_the_rest(
    before: int, after: int, others: list[Any], schedule: Any
) -> None:
    log: list[tuple[Any, ...]] = []
    told = [("tell", "stage/b", n) for n in range(before + after)]
    program = (*told[:before], ("exit", "stage/b", "oops"), *told[before:])
    with play(stage(log, IDS, [False, True]), schedule) as sim:
        sim.kernel.tell("stage/c", Do(numbered(others)))
        sim.kernel.tell("stage/a", Do(program))
        sim.run_until_idle()

    lines_of_b = [line for line in log if line[0] == "b" and line[2] == "a"]
    assert [line[3] for line in lines_of_b if line[1] == "note"] == list(range(before + after))
    assert [line[1] for line in lines_of_b].count("exit") == 1
    assert [line[1] for line in lines_of_b].index("exit") <= before


@given(told=st.integers(0, 6), how=st.sampled_from((("crash",), ("stop", "normal"))), schedule=schedules())
def test_s50_a_down_comes_after_all_that_the_dead_actor_had_sent(told: int, how: Any, schedule: Any) -> None:
    log: list[tuple[Any, ...]] = []
    with play(stage(log, IDS), schedule) as sim:
        sim.tell("b", Do((("monitor", "stage/a"),)))
        sim.kernel.tell("stage/a", Do((*(("tell", "stage/b", n) for n in range(told)), how)))
        sim.run_until_idle()

    kinds = [line[1] for line in log if line[0] == "b" and line[1] in ("note", "down")]
    assert kinds == ["note"] * told + ["down"]


class Patient(Actor):
    """Puts odd numbers aside until it hears a negative one."""

    def __init__(self, log: list[int]) -> None:
        self.log = log
        self.open = False

    @on(Note)
    def note(self, note: Note) -> None:
        if note.n < 0:
            self.open = not self.open
            self.state_changed()
        elif note.n % 2 and not self.open:
            self.postpone()
        else:
            self.log.append(note.n)


@given(told=st.lists(st.integers(-1, 9), max_size=12), schedule=schedules())
def test_s7_what_was_postponed_comes_back_oldest_first_and_before_what_is_newer(
    told: list[int], schedule: Any
) -> None:
    log: list[int] = []
    with play(child("patient", Patient, log), schedule) as sim:
        for n in told:
            sim.kernel.tell("app/patient", Note(n))
        sim.run_until_idle()

    expected: list[int] = []
    waiting, aside, is_open = list(told), [], False
    while waiting:
        n = waiting.pop(0)
        if n < 0:
            is_open = not is_open
            waiting, aside = aside + waiting, []
        elif n % 2 and not is_open:
            aside.append(n)
        else:
            expected.append(n)
    assert log == expected


class Urgent(Actor):
    """Takes what is urgent first."""

    urgent = True

    def __init__(self, log: list[int]) -> None:
        self.log = log

    @on(Note)
    def note(self, note: Note) -> None:
        self.log.append(note.n)


class Sender(Actor):
    """Tells a list of numbers in one handler, the negative ones urgently."""

    @on(list)
    def send(self, numbers: list[Any]) -> None:
        where: Ref = numbers[0]
        for n in numbers[1:]:
            self.tell(where, Note(n), urgent=n < 0)


@given(told=st.lists(st.integers(-5, 5), max_size=10), schedule=schedules())
def test_s8_what_is_urgent_goes_first_and_each_kind_keeps_its_order(told: list[int], schedule: Any) -> None:
    log: list[int] = []
    with play(child("urgent", Urgent, log), schedule) as sim:
        sender = sim.spawn(Sender)
        sim.kernel.suspend("app/urgent")
        sim.run(_call(sim, sender, told))
        sim.kernel.resume("app/urgent")
        sim.run_until_idle()

    assert log == [n for n in told if n < 0] + [n for n in told if n >= 0]


async def _call(sim: Any, sender: Ref, told: list[int]) -> None:
    actor = sender.cell.actor
    actor.send([sim.kernel.find("app/urgent"), *told])
