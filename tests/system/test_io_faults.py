"""Whole VMs against a Messages server that breaks: each fault is one call's error, of a type that says what happened.

With retries the same call succeeds at its next attempt; either way nothing stays reserved, and the next call is
answered. Time is a clock that moves only when calls wait, but for the silence of a line, which is real.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from avm.errors import (
    AskTimeout,
    AVMError,
    BadOutput,
    Overloaded,
    ProviderConnection,
    ProviderError,
    ProviderFailed,
    ProviderTimeout,
    RateLimited,
)
from avm.io import CallPolicy, Complete, Limits
from avm.testing import MessagesServer, ServerFault
from avm.testing.messages_server import Call
from tests.io.pooled import prompt
from tests.io.test_gate import is_at_rest
from tests.system.test_providers import MODEL, Read, World, name, world

Run = Callable[..., Any]

ONCE = CallPolicy(retry_for=0.0)
SILENCE = 0.2
"""Seconds after which a line counts as dead here; a server on this machine answers in a hundredth of it."""

__all__ = ["name"]


def first(*faults: ServerFault) -> Callable[[int, Call], ServerFault | None]:
    """Let the first requests meet faults, one each."""
    waiting = list(faults)
    return lambda number, call: waiting.pop(0) if waiting else None


async def read(it: World, text: str = "Tell", **attributes: Any) -> list[Any]:
    """Have a new agent read a stream; return its text, and where it began anew."""
    ref = await it.spawn(**attributes)
    found: list[Any] = await it.done(it.vm.ask(ref, Read(text), timeout=None))
    return found


BROKEN: list[tuple[str, ServerFault, type[ProviderError], str]] = [
    ("429", ServerFault.status(429, 7), RateLimited, "HTTP 429"),
    ("500", ServerFault.status(500), ProviderFailed, "HTTP 500"),
    ("529", ServerFault.status(529), Overloaded, "HTTP 529"),
    ("half", ServerFault.half(), ProviderConnection, "breaks off after"),
    ("too short", ServerFault.wrong_length(10), ProviderConnection, "broken one"),
    ("reset", ServerFault.reset(), ProviderConnection, "broken one"),
    ("reset later", ServerFault.reset(400), ProviderConnection, "broken one"),
    ("closed", ServerFault.close(), ProviderConnection, "broken one"),
    ("hangs", ServerFault.hang(), ProviderTimeout, "no reply in 0.2 s; raise timeout="),
    ("never ends", ServerFault.endless(), ProviderTimeout, "no reply in 0.2 s; raise timeout="),
]

broken = pytest.mark.parametrize("fault, kind, says", [pytest.param(*row[1:], id=row[0]) for row in BROKEN])


@pytest.mark.slow
@broken
def test_a_broken_response_is_an_error_that_says_how_where_nothing_is_tried_again(
    run: Run, name: str, fault: ServerFault, kind: type[ProviderError], says: str
) -> None:
    async def body() -> None:
        async with world(name, MessagesServer("ok", faults=first(fault)), timeout=SILENCE) as it:
            error = await it.fail(policy=ONCE)
            assert (type(error), error.provider, error.model) == (kind, name, MODEL)
            assert says in str(error)
            # Without a head there is no id.
            has_head = fault.kind not in ("hang",) and not (
                fault.kind in ("reset", "close") and not fault.count
            )
            assert error.request_id.startswith("req_") == has_head
            it.clock.advance(60.0)
            await it.check_rest()

    run(body())


@pytest.mark.slow
@broken
def test_a_broken_response_is_made_good_by_the_next_attempt(
    run: Run, name: str, fault: ServerFault, kind: type[ProviderError], says: str
) -> None:
    async def body() -> None:
        async with world(name, MessagesServer("ok", faults=first(fault)), timeout=SILENCE) as it:
            assert await it.write() == "ok"
            assert it.server.received == 2
            assert it.pool.gates[0].retries == 1
            await it.check_rest()

    run(body())


def test_a_page_in_place_of_a_reply_says_what_to_look_at(run: Run, name: str) -> None:
    """Asked again it would come again."""

    async def body() -> None:
        async with world(name, MessagesServer("ok", faults=first(ServerFault.html()))) as it:
            error = await it.fail()
            assert (type(error), error.provider, error.model) == (BadOutput, name, MODEL)
            assert "is not a message but text/html" in str(error)
            assert "base_url must be the root of a server that answers POST /v1/messages" in str(error)
            assert it.server.received == 1
            await it.check_rest()

    run(body())


def test_a_longer_response_than_was_announced_harms_nobody(run: Run, name: str) -> None:
    """What is cut off is half a JSON; what came too much must not be taken for the next reply."""

    async def body() -> None:
        async with world(name, MessagesServer("ok", faults=first(ServerFault.wrong_length(-10)))) as it:
            assert await it.write() == "ok"
            assert it.server.received == 2
            await it.check_rest()

    run(body())


@pytest.mark.slow
@pytest.mark.parametrize(
    "reads, fault, step",
    [
        pytest.param(False, ServerFault.close, 1, id="closed, in one piece"),
        pytest.param(True, ServerFault.reset, 9, id="reset, read as it comes"),
    ],
)
def test_a_connection_that_ends_at_any_byte_of_a_reply_costs_one_more_attempt(
    run: Run, name: str, reads: bool, fault: Callable[[int], ServerFault], step: int
) -> None:
    cuts: list[int] = []

    async def body() -> int:
        server = MessagesServer("ok", faults=lambda *_: fault(cuts.pop()) if cuts else None)
        async with world(name, server) as it:
            for size in range(0, 3_000, step if name == "messages" else 7 * step):
                before = it.server.received
                cuts.append(size)
                assert await (read(it) if reads else it.write()) == (["ok", []] if reads else "ok"), size
                attempts = it.server.received - before
                assert 1 <= attempts <= 2
                if attempts == 1:
                    break
            await it.check_rest()
            return size

    # The head and nearly all of the body were cut.
    assert run(body(), timeout=60.0) > 400


STREAMS: list[tuple[str, ServerFault, type[ProviderError]]] = [
    ("error event", ServerFault.error_event(4), Overloaded),
    ("half an event", ServerFault.half(), BadOutput),
    ("cut", ServerFault.cut(5), ProviderConnection),
    ("hangs", ServerFault.hang(), ProviderTimeout),
]


@pytest.mark.slow
@pytest.mark.parametrize("fault, kind", [pytest.param(*row[1:], id=row[0]) for row in STREAMS])
def test_who_reads_a_stream_that_breaks_gets_the_error(
    run: Run, name: str, fault: ServerFault, kind: type[ProviderError]
) -> None:
    async def body() -> None:
        async with world(name, MessagesServer(faults=first(fault)), timeout=SILENCE) as it:
            ref = await it.spawn(policy=ONCE)
            with pytest.raises(AVMError) as caught:
                await it.done(it.vm.ask(ref, Read("Tell me something long and wide."), timeout=None))
            error = getattr(caught.value, "reason", None)
            assert type(error) is kind
            assert (error.provider, error.model) == (name, MODEL)
            await it.check_rest()

    run(body())


def test_who_reads_a_stream_that_was_cut_is_told_from_where_it_is_another(run: Run, name: str) -> None:
    texts = ["The quick brown fox jumps over the dog.", "The quick brown cat sleeps under the dog."]

    async def body() -> None:
        server = MessagesServer(iter([*texts, "ok"]), faults=first(ServerFault.cut(6)), delta_characters=10)
        async with world(name, server) as it:
            text, offsets = await read(it)
            assert text == texts[1]
            # What both have in common was told once.
            assert offsets in ([], [len("The quick brown ")])
            assert it.server.received == 2
            await it.check_rest()

    run(body())


def test_who_reads_a_stream_that_was_cut_and_is_the_same_again_hears_nothing_of_it(
    run: Run, name: str
) -> None:
    async def body() -> None:
        text = "The quick brown fox jumps over the dog."
        faults = first(*[ServerFault.cut(events) for events in range(1, 6)])
        async with world(name, MessagesServer(text, faults=faults, delta_characters=10)) as it:
            assert await read(it) == [text, []]
            assert it.server.received == 6
            await it.check_rest()

    run(body())


def test_an_overloaded_event_in_a_stream_is_tried_again(run: Run, name: str) -> None:
    async def body() -> None:
        async with world(name, MessagesServer("ok", faults=first(ServerFault.error_event(3)))) as it:
            assert await read(it) == ["ok", []]
            assert it.pool.gates[0].governor.overloaded == 1
            await it.check_rest()

    run(body())


# Those who ask no more.


def stuck() -> tuple[MessagesServer, asyncio.Event]:
    """Return a server that answers when the event is set."""
    go = asyncio.Event()

    async def answer(call: Call) -> str:
        await go.wait()
        return "ok"

    return MessagesServer(answer), go


@pytest.mark.slow
def test_calls_that_are_given_up_by_the_thousand_leave_nothing_behind(run: Run, name: str) -> None:
    """Ten thousand: half are cancelled, half those of agents that are killed; some are under way, most wait."""

    async def body() -> None:
        server, go = stuck()
        # The SDK takes several times as long to open and close a connection.
        rounds = 20 if name == "messages" else 2
        call = Complete(prompt("Hello"))
        async with world(name, server, concurrency=10) as it:
            front = it.vm["avm.io"]
            for _ in range(rounds):
                agents = [await it.spawn() for _ in range(250)]
                asked = [asyncio.ensure_future(it.vm.ask(ref, "Hello", timeout=None)) for ref in agents]
                alone = [asyncio.ensure_future(it.vm.ask(front, call, timeout=None)) for _ in range(250)]
                await it.until(lambda: it.server.in_flight == 10)
                for ref, task in zip(agents, alone, strict=True):
                    it.vm.kill(ref)
                    task.cancel()
                await asyncio.gather(*asked, *alone, return_exceptions=True)
                await it.until(lambda: it.server.in_flight == 0 and is_at_rest(it.pool))
            assert it.pool.crashed_workers == 0
            go.set()
            await it.check_rest()
            assert it.server.connections <= 10

    run(body(), timeout=120.0)


def test_an_ask_that_times_out_closes_its_connection(run: Run, name: str) -> None:
    async def body() -> None:
        server, go = stuck()
        async with world(name, server) as it:
            asked = asyncio.ensure_future(it.vm.ask(it.vm["avm.io"], Complete(prompt("Hello")), timeout=30.0))
            await it.until(lambda: it.server.in_flight == 1)
            it.clock.advance(30.0)
            with pytest.raises(AskTimeout):
                await asked
            await it.until(lambda: it.server.in_flight == 0)
            go.set()
            await it.check_rest()

    run(body())


# The clock.


def test_a_clock_that_jumps_by_a_day_while_calls_are_everywhere_loses_none(run: Run, name: str) -> None:
    async def body() -> None:
        faults = first(ServerFault.status(429, 30), ServerFault.status(529))
        server = MessagesServer("ok", faults=faults, limits=Limits(requests=60))
        async with world(name, server, limits=Limits(requests=60), concurrency=2) as it:
            refs = [await it.spawn() for _ in range(8)]
            asked = [asyncio.ensure_future(it.vm.ask(ref, "Hello", timeout=None)) for ref in refs]
            await it.until(lambda: it.pool.gates != () and it.pool.gates[0].governor.rate_limited == 1)
            it.clock.advance(86_400.0)
            assert await it.done(asyncio.gather(*asked)) == ["ok"] * 8
            it.clock.advance(86_400.0)
            await it.check_rest()
            it.clock.advance(60.0)
            assert it.pool.gates[0].governor.requests_level == pytest.approx(60)

    run(body())


def test_a_clock_that_jumps_past_the_time_of_a_call_fails_it_and_no_other(run: Run, name: str) -> None:
    async def body() -> None:
        server, go = stuck()
        async with world(name, server) as it:
            late = await it.spawn(reply_timeout=600.0)
            asked = asyncio.ensure_future(it.vm.ask(late, "Hello", timeout=None))
            await it.until(lambda: it.server.in_flight == 1)
            it.clock.advance(86_400.0)
            with pytest.raises(AVMError):
                await asked
            go.set()
            await it.check_rest()

    run(body())
