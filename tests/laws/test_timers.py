"""Laws of timers: never early, in the order in which they were made, and not at all once cancelled (S86-S90)."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from avm.actors import Actor, Request, event, on
from avm.supervision import child
from avm.testing.strategies import schedules
from tests.laws.cast import Note, play


@event(tag="laws.Arm")
class Arm(Request[list[Any]]):
    """Set timers, then cancel some of them; the reply is what `cancel` gave."""

    seconds: tuple[float, ...]
    cancelled: tuple[int, ...]


@event(tag="laws.Every")
class Every:
    """Set an interval."""

    seconds: float


class Alarm(Actor):
    """Writes down when what rang."""

    def __init__(self, log: list[tuple[float, int]]) -> None:
        self.log = log

    @on(Arm)
    def arm(self, order: Arm) -> list[Any]:
        timers = [self.send_after(s, self.pid, Note(n)) for n, s in enumerate(order.seconds)]
        return [self.cancel(timers[n % len(timers)]) for n in order.cancelled]

    @on(Every)
    def every(self, order: Every) -> None:
        self.send_interval(order.seconds, self.pid, Note(-1))

    @on(Note)
    def ring(self, note: Note) -> None:
        self.log.append((self.now(), note.n))


@given(
    seconds=st.lists(st.sampled_from((0.0, 0.5, 1.0, 2.0)), min_size=1, max_size=8),
    cancelled=st.lists(st.integers(0, 7), max_size=4),
    schedule=schedules(),
)
def test_s86_to_s88_timers_fire_at_their_time_in_order_or_not_at_all(
    seconds: list[float], cancelled: list[int], schedule: Any
) -> None:
    log: list[tuple[float, int]] = []
    with play(child("alarm", Alarm, log), schedule) as sim:
        left = sim.ask("alarm", Arm(tuple(seconds), tuple(cancelled)))
        sim.advance(10.0)

    gone: set[int] = set()
    expected: list[float | None] = []
    for n in cancelled:
        number = n % len(seconds)
        expected.append(None if number in gone else seconds[number])
        gone.add(number)
    assert left == expected
    assert log == sorted((s, n) for n, s in enumerate(seconds) if n not in gone)


@given(every=st.sampled_from((0.5, 1.0, 3.0)), held=st.sampled_from((0.0, 4.0)), schedule=schedules())
def test_s90_intervals_do_not_drift_and_do_not_make_up_for_what_was_missed(
    every: float, held: float, schedule: Any
) -> None:
    log: list[tuple[float, int]] = []
    with play(child("alarm", Alarm, log), schedule) as sim:
        sim.tell("alarm", Every(every))
        sim.loop.leap(held)
        sim.settle()
        sim.advance(6.0)

    times = [at for at, _ in log]
    late = [held] if held >= every else []
    regular = [n * every for n in range(1, 30) if held < n * every <= held + 6.0]
    assert times == late + regular
