"""Whole VMs against a real Messages server: calls that go right, and calls that are wrong, through both HTTP providers.

What is wrong is said with provider, model, the request's id and what to do; and the next call is answered.
"""

from __future__ import annotations

import asyncio
import importlib
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import attrs
import pytest

from avm.actors import Ref, Request, event, on
from avm.agents import Agent
from avm.errors import (
    ActorExited,
    ContextOverflow,
    InvalidRequest,
    NotAuthorized,
    ProviderError,
    ProviderUnavailable,
    SpendLimitReached,
)
from avm.io import CallPolicy, PoolStatistics, Provider, Restart
from avm.io.providers.anthropic import AnthropicProvider
from avm.io.providers.messages import MessagesProvider
from avm.testing import ManualClock, MessagesServer
from avm.testing.messages_server import ServerFault
from avm.tools import tool
from avm.vm import VM
from tests.io.test_gate import is_at_rest

Run = Callable[..., Any]
T = TypeVar("T")

KEY = "sk-test-0123456789"
MODEL = "claude-sonnet-5-5"
TURNS = 10
"""Turns of the loop between two looks at the pool."""

# The SDK's import alone takes a second or two.
PROVIDERS = [
    "messages",
    pytest.param(
        "anthropic",
        marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")],
    ),
]


@pytest.fixture(params=PROVIDERS)
def name(request: pytest.FixtureRequest) -> str:
    """The provider: what it needs is imported before the test, whose time is measured."""
    chosen: str = request.param
    importlib.import_module("anthropic" if chosen == "anthropic" else "aiohttp")
    return chosen


@event(tag="tests.providers.Read")
class Read(Request[list[Any]]):
    """Read a reply as it comes: answered with its text in the end, and the offsets from which it began anew."""

    prompt: str


class Writer(Agent):
    """Answers what it is told; attributes of agents can be given to it."""

    model = MODEL
    max_tokens = 100
    reply_timeout = None

    def __init__(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            setattr(self, name, value)

    @on(Read)
    async def read(self, read: Read) -> list[Any]:
        """Follow a stream."""
        text, offsets = "", []
        async for piece in self.stream(read.prompt):
            if isinstance(piece, Restart):
                offsets.append(piece.offset)
                text = text[: piece.offset]
            else:
                text += piece.text
        return [text, offsets]


@attrs.frozen
class World:
    """A VM, the server its calls go to, and the clock of the VM, which moves only when calls wait for it."""

    vm: VM
    server: MessagesServer
    clock: ManualClock

    async def done(self, work: Awaitable[T]) -> T:
        """Wait for something; where calls wait for their next attempt, let that time come."""
        task = asyncio.ensure_future(work)
        while not task.done():
            for _ in range(TURNS):
                await asyncio.sleep(0)
            found = self.pool
            if found.queued and not found.in_flight:
                self.clock.advance(0.25)
        return await task

    async def until(self, holds: Callable[[], bool]) -> None:
        """Let the loop turn until something holds."""
        while not holds():
            for _ in range(TURNS):
                await asyncio.sleep(0)

    async def write(self, prompt: str = "Hello", **attributes: Any) -> str:
        """Have a new agent answer a prompt."""
        ref = await self.spawn(**attributes)
        answer: str = await self.done(self.vm.ask(ref, prompt, timeout=None))
        return answer

    async def spawn(self, **attributes: Any) -> Ref:
        """Start an agent with such attributes."""
        return await self.vm.spawn(Writer, kwargs=attributes)

    async def fail(self, prompt: str = "Hello", **attributes: Any) -> ProviderError:
        """Have a new agent answer a prompt, which does not work; return the error it ended with."""
        with pytest.raises(ActorExited) as caught:
            await self.write(prompt, **attributes)
        error = caught.value.reason
        assert isinstance(error, ProviderError)
        shown = "".join(traceback.format_exception(error)) + repr(error) + str(caught.value)
        assert KEY not in shown
        return error

    @property
    def pool(self) -> PoolStatistics:
        """How the pool is now."""
        # The VM's whole status looks at every actor, which is too much for every few turns of the loop.
        front: Any = self.vm["avm.io"].cell.actor
        found: PoolStatistics = front.statistics()
        return found

    async def check_rest(self) -> None:
        """Nothing waits, nothing is reserved, and the next call is answered."""
        assert is_at_rest(self.pool)
        assert await self.write("Are you there?")
        assert is_at_rest(self.pool)


def provider_of(name: str, server: MessagesServer, **options: Any) -> Provider:
    """Return one of the providers, with the server to call."""
    if name == "anthropic":
        return AnthropicProvider(KEY, base_url=server.base_url, **options)
    return MessagesProvider(server.base_url, KEY, **options)


@asynccontextmanager
async def world(
    name: str, server: MessagesServer, *, clock: ManualClock | None = None, **options: Any
) -> AsyncIterator[World]:
    """Run a server and a VM that calls it; options are the provider's."""
    used = clock or ManualClock()
    async with (
        server,
        VM(
            memory=None,
            provider=provider_of(name, server, **options),
            clock=used,
            observers=[],
            watchdog=None,
        ) as vm,
    ):
        yield World(vm, server, used)


def check_error(error: ProviderError, kind: type[ProviderError], name: str, *says: str) -> None:
    """An error has its type, says whose it is, and what to do."""
    assert type(error) is kind
    assert (error.provider, error.model) == (name, MODEL)
    assert error.request_id.startswith("req_")
    assert error.request_id in str(error)
    for part in (name, MODEL, *says):
        assert part in str(error)


# Going right.


def test_an_agent_talks_and_what_it_took_is_counted(run: Run, name: str) -> None:
    async def body() -> None:
        async with world(name, MessagesServer("Good day.")) as it:
            assert await it.write() == "Good day."

            assert it.pool.requests == 1
            assert it.pool.input_tokens > 0
            assert it.pool.cost is not None
            await it.check_rest()

    run(body())


def test_a_reply_that_is_read_as_it_comes_is_the_same(run: Run, name: str) -> None:
    async def body() -> None:
        text = "One two three four five six seven eight nine ten."
        async with world(name, MessagesServer(text)) as it:
            ref = await it.spawn()
            assert await it.done(it.vm.ask(ref, Read("Count"), timeout=None)) == [text, []]
            await it.check_rest()

    run(body())


# Wrong requests.


def test_a_wrong_key_says_where_it_is_set_and_later_calls_are_not_even_sent(run: Run, name: str) -> None:
    async def body() -> None:
        async with world(name, MessagesServer(api_key="another")) as it:
            first = await it.fail()
            check_error(first, NotAuthorized, name, "invalid x-api-key", "check")
            assert ("ANTHROPIC_API_KEY" if name == "anthropic" else "api_key=") in str(first)

            second = await it.fail()
            assert type(second) is ProviderUnavailable
            assert isinstance(second.__cause__, NotAuthorized)
            assert it.server.received == 1
            assert is_at_rest(it.pool)

    run(body())


def test_a_key_that_is_taken_again_is_used_again_after_a_minute(run: Run, name: str) -> None:
    async def body() -> None:
        faults = [ServerFault.status(401)]
        async with world(
            name, MessagesServer("ok", faults=lambda *_: faults.pop() if faults else None)
        ) as it:
            check_error(await it.fail(), NotAuthorized, name)
            it.clock.advance(60.0)
            await it.check_rest()

    run(body())


def test_a_spent_limit_is_not_asked_again_for_ten_minutes(run: Run, name: str) -> None:
    async def body() -> None:
        faults = [ServerFault.spend_limit()]
        async with world(
            name, MessagesServer("ok", faults=lambda *_: faults.pop() if faults else None)
        ) as it:
            check_error(await it.fail(), SpendLimitReached, name, "asking again does not help")
            it.clock.advance(599.0)
            assert type(await it.fail()) is ProviderUnavailable
            it.clock.advance(1.0)
            await it.check_rest()

    run(body())


@tool
async def count_words(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())


BAD_TOOL = attrs.evolve(count_words, schema=b'{"type":"string"}')

WRONG = [
    ({"model": "claude-opus-0"}, InvalidRequest, ("HTTP 404", "check the model 'claude-opus-0'")),
    ({"system": "Be brief. " * 400}, ContextOverflow, ("prompt is too long", "shorten the conversation")),
    ({"max_tokens": 2_000}, InvalidRequest, ("max_tokens: 2000 > 1000", "correct the request")),
    ({"max_tokens": -1}, InvalidRequest, ("greater than or equal to 0", "correct the request")),
    ({"tools": [BAD_TOOL]}, InvalidRequest, ("tools.0.custom.input_schema.type", "correct the request")),
    ({"params": {"stop_sequences": 1}}, InvalidRequest, ("stop_sequences: Input should be a valid list",)),
]


@pytest.mark.parametrize("attributes, kind, says", WRONG)
def test_a_wrong_request_is_said_to_be_wrong_once_and_the_pool_goes_on(
    run: Run, name: str, attributes: dict[str, Any], kind: type[ProviderError], says: tuple[str, ...]
) -> None:
    async def body() -> None:
        server = MessagesServer(models=[MODEL], context=1_000, max_output_tokens=1_000)
        async with world(name, server) as it:
            error = await it.fail(**attributes)
            assert it.server.received == 1
            model = attributes.get("model", MODEL)
            assert (type(error), error.provider, error.model) == (kind, name, model)
            assert error.request_id.startswith("req_")
            for part in (name, model, error.request_id, *says):
                assert part in str(error)
            await it.check_rest()

    run(body())


def test_a_model_that_is_not_known_is_no_reason_to_go_on_to_another(run: Run, name: str) -> None:
    """A wrong request would be as wrong there, and the mistake would never be seen."""

    async def body() -> None:
        async with world(name, MessagesServer(models=[MODEL])) as it:
            policy = CallPolicy(fallbacks=(MODEL,))
            error = await it.fail(model="claude-opus-0", policy=policy)
            assert type(error) is InvalidRequest
            assert it.server.received == 1
            await it.check_rest()

    run(body())


async def gathered(works: list[Coroutine[Any, Any, T]]) -> list[T]:
    """Do all at once."""
    return list(await asyncio.gather(*works))


@pytest.mark.slow
def test_many_agents_are_answered_over_few_connections(run: Run, name: str) -> None:
    async def body() -> None:
        async with world(name, MessagesServer(), concurrency=5) as it:
            refs = [await it.spawn() for _ in range(40)]
            asked = [it.vm.ask(ref, f"I am {n}", timeout=None) for n, ref in enumerate(refs)]
            answers = await it.done(gathered(asked))
            assert [f"I am {n}" in answer for n, answer in enumerate(answers)] == [True] * 40
            assert it.server.connections <= 5
            await it.check_rest()

    run(body())
