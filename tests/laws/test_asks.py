"""Laws of asking: every ask ends in exactly one way, at the right time, whatever its receiver does (S13-S22)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from avm.actors import Actor, Normal, Request, event, on
from avm.errors import Refuse
from avm.supervision import child, supervisor
from avm.testing.strategies import schedules
from tests.laws.cast import Query, outcome, play

HOWS = ("answer", "crash", "exit", "stop", "defer", "twice", "refuse", "stranger", "silence")


class Server(Actor):
    """Answers as it is told to, after a while."""

    def __init__(self, handled: list[str]) -> None:
        self.handled = handled

    async def stopping(self, reason: object) -> None:
        if isinstance(reason, Normal):
            await asyncio.sleep(0.25)
        self.handled.append("stopped")

    @on(Query)
    async def query(self, query: Query) -> Any:
        self.handled.append(query.how)
        if query.how in ("defer", "twice", "silence"):
            reply = self.defer()
            if query.how != "silence":
                self.pipe(self._later(reply, query))
            return "not this"
        if query.seconds:
            await asyncio.sleep(query.seconds)
        if query.how == "crash":
            raise RuntimeError("crash")
        if query.how == "exit":
            self.kill(self.pid)
        if query.how == "stop":
            self.stop()
        if query.how == "refuse":
            raise Refuse(ZeroDivisionError("refused"))
        return query.how

    async def _later(self, reply: Any, query: Query) -> None:
        await asyncio.sleep(query.seconds)
        reply.send(query.how)
        if query.how == "twice":
            reply.send("not this either")


@event(tag="laws.AskOthers")
class AskOthers(Request[Any]):
    """How to ask each server, and how long to wait; all at once if `together`."""

    queries: tuple[tuple[str, float, float | None], ...]


class Asker(Actor):
    """Asks servers, and tells how and when each ask ended."""

    @on(AskOthers)
    async def ask_others(self, order: AskOthers) -> Any:
        return await asyncio.gather(*(self._one(n, *query) for n, query in enumerate(order.queries)))

    async def _one(self, number: int, how: str, seconds: float, timeout: float | None) -> tuple[Any, float]:
        began = self.now()
        request = f"no handler for this: {how}" if how == "stranger" else Query(how, seconds)
        try:
            found = await self.ask(f"top/s{number}", request, timeout)
        except Exception as error:
            found = type(error).__name__
        return found, self.now() - began


def expected(how: str, seconds: float, timeout: float | None) -> tuple[Any, float]:
    """How and when an ask ends."""
    if how == "stranger":
        return "NoHandler", 0.0
    ends = {"crash": "ActorExited", "exit": "ActorExited", "refuse": "ZeroDivisionError"}.get(how, how)
    if how == "silence" or (timeout is not None and seconds > timeout):
        return "AskTimeout", timeout or 0.0
    # Stop and reply: the reply goes out when `stopping` is through (S21).
    return ends, seconds + 0.25 * (how == "stop")


def _fits(query: tuple[str, float, float | None]) -> bool:
    return query[0] != "silence" or query[2] is not None


queries = st.tuples(
    st.sampled_from(HOWS), st.sampled_from((0.0, 1.0, 3.0)), st.sampled_from((2.0, 4.0, None))
).filter(_fits)


@given(asked=st.lists(queries, min_size=1, max_size=4), schedule=schedules())
def test_s13_to_s17_and_s21_an_ask_ends_in_one_way_at_its_time(asked: Sequence[Any], schedule: Any) -> None:
    handled: list[list[str]] = [[] for _ in asked]
    servers = [child(f"s{n}", Server, handled[n], restart="temporary") for n in range(len(asked))]
    with play(supervisor("top", children=[child("asker", Asker), *servers]), schedule) as sim:
        found = sim.ask("asker", AskOthers(tuple(asked)), None)
        sim.advance(10.0)
        late = sim.kernel.statistics().late_replies
        began = [happened[:1] for happened in handled]

    assert [(result, round(when, 6)) for result, when in found] == [expected(*query) for query in asked]
    # A timeout does not cancel the request; its reply is dropped, and counted (S15, S16).
    assert began == [[] if how == "stranger" else [how] for how, _, _ in asked]
    answers = ("answer", "stop", "defer", "twice")
    answered_late = [q for q in asked if expected(*q)[0] == "AskTimeout" and q[0] in answers]
    twice = sum(how == "twice" for how, _, _ in asked)
    assert late == len(answered_late) + twice


@given(how=st.sampled_from(("kill", "crash", "stop")), waiting=st.integers(0, 3), schedule=schedules())
def test_s14_s31_who_asked_one_that_ends_hears_of_it_at_once(how: str, waiting: int, schedule: Any) -> None:
    """The one being answered and those that still wait in the mailbox."""
    handled: list[str] = []
    tree = supervisor("top", children=[child("s", Server, handled, restart="temporary")])
    with play(tree, schedule) as sim:
        asks = [sim.loop.create_task(_outcome(sim, Query("answer", 100.0))) for _ in range(waiting + 1)]
        sim.advance(1.0)
        if how == "stop":
            sim.stop("s")
        else:
            (sim.kill if how == "kill" else sim.crash)("s")

        assert [task.done() and task.result() for task in asks] == ["ActorExited"] * (waiting + 1)
        assert sim.now < 2.0
        assert outcome(sim, "top/s", Query("answer")) == "NoProc"


async def _outcome(sim: Any, request: object) -> Any:
    try:
        return await sim.kernel.ask("top/s", request, None)
    except Exception as error:
        return type(error).__name__


@event(tag="laws.Pass")
class Pass(Request[str]):
    """Passed on to the next, until someone answers."""


class Link(Actor):
    """Passes an ask on to whoever is next, and gives back what came of it."""

    def __init__(self, next: int | None) -> None:
        self.next = next

    @on(Pass)
    async def go_on(self, order: Pass) -> str:
        if self.next is None:
            return "the end"
        try:
            return await self.ask(f"top/l{self.next}", Pass())
        except Exception as error:
            return type(error).__name__


@given(data=st.data(), schedule=schedules())
def test_s18_an_ask_that_closes_a_ring_fails_at_once(data: st.DataObject, schedule: Any) -> None:
    count = data.draw(st.integers(1, 5))
    nexts = data.draw(
        st.lists(st.one_of(st.none(), st.integers(0, count - 1)), min_size=count, max_size=count)
    )
    with play(
        supervisor("top", children=[child(f"l{n}", Link, at) for n, at in enumerate(nexts)]), schedule
    ) as sim:
        for first in range(count):
            met, here = [first], nexts[first]
            while here is not None and here not in met:
                met.append(here)
                here = nexts[here]
            ring = "CallingSelf" if here == met[-1] else "AskCycle"

            assert outcome(sim, f"l{first}", Pass(), None) == ("the end" if here is None else ring)
        assert sim.now == 0.0


class Collector(Actor):
    """Asks many at once."""

    @on(AskOthers)
    async def collect(self, order: AskOthers) -> Any:
        requests = self.requests()
        for number, (how, seconds, _) in enumerate(order.queries):
            requests.add(number, f"top/s{number}", Query(how, seconds))
        return [(label, reply) async for label, reply in requests]


@given(seconds=st.lists(st.integers(0, 50), min_size=1, max_size=5, unique=True), schedule=schedules())
def test_s22_replies_of_many_asks_are_taken_in_the_order_of_arrival(
    seconds: list[int], schedule: Any
) -> None:
    servers = [child(f"s{n}", Server, []) for n in range(len(seconds))]
    order = AskOthers(tuple(("answer", float(s), None) for s in seconds))
    with play(supervisor("top", children=[child("collector", Collector), *servers]), schedule) as sim:
        found = sim.ask("collector", order, None)

    arrival = sorted(range(len(seconds)), key=lambda n: seconds[n])
    assert found == [(n, "answer") for n in arrival]


@given(schedule=schedules(), kills=st.booleans())
def test_s19_an_ask_is_not_sent_again_to_the_next_incarnation(schedule: Any, kills: bool) -> None:
    handled: list[str] = []
    with play(supervisor("top", children=[child("s", Server, handled, name="server")]), schedule) as sim:
        task = sim.loop.create_task(_outcome(sim, Query("answer", 100.0)))
        sim.advance(1.0)
        (sim.kill if kills else sim.crash)("s")
        sim.advance(200.0)

        assert task.result() == "ActorExited"
        assert sim.starts()["s"] == 2
        assert handled.count("answer") == 1


@given(kills=st.booleans(), deferred=st.integers(1, 3), schedule=schedules())
def test_s17_who_took_a_reply_and_ends_leaves_no_asker_waiting(
    kills: bool, deferred: int, schedule: Any
) -> None:
    tree = supervisor("top", children=[child("s", Server, [], restart="temporary")])
    with play(tree, schedule) as sim:
        asks = [sim.loop.create_task(_outcome(sim, Query("silence"))) for _ in range(deferred)]
        sim.settle()
        (sim.kill if kills else sim.crash)("s")

        assert [task.done() and task.result() for task in asks] == ["ActorExited"] * deferred
