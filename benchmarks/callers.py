"""Callers: agents that call a model through avm's pool, and the same as tasks on other clients.

Each side has the same parts to play: a part is a coroutine function that is given a way to call, and the number of its
agent. avm's are actors of a whole VM, so a call is an ask of the pool's front and passes the queue, the governor, the
prefix table and a worker; the others are bare tasks that call their client as its documentation shows.

| side | what it is |
| --- | --- |
| avm | the pool on `MessagesProvider` |
| avm-sdk | the pool on `AnthropicProvider`: the real SDK on its aiohttp transport |
| aiohttp | one `ClientSession`, json, nothing else |
| sdk | `AsyncAnthropic` as it comes, without retries and with time to connect |
| sdk-aiohttp | the same on its aiohttp transport |
| sdk-default | `AsyncAnthropic` as it comes: two retries, five seconds to connect, and what fails has failed |
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any, Protocol

import attrs

from avm.actors import Actor, Ref, Request, event, on
from avm.io import (
    CallPolicy,
    Complete,
    Completion,
    Limits,
    ModelRequest,
    ModelStream,
    Piece,
    Provider,
    encode_fragment,
)
from avm.io.providers.anthropic import AnthropicProvider
from avm.io.providers.messages import MessagesProvider
from avm.scheduler import Clock
from avm.vm import VM

MODEL = "claude-sonnet-5-5"
MAX_TOKENS = 1024
KEY = "sk-benchmark"
LARGE = 60_000
"""Bytes of a large system prompt."""


@attrs.frozen(slots=True, kw_only=True)
class Prompt:
    """What every call of a measurement asks.

    Attributes:
        system, tools: shared by all calls.
        own: text that follows the number of the call in its message.
        marked: whether a peer marks the system prompt for the cache; avm decides that by itself.
    """

    system: str = "You answer in one short sentence."
    tools: tuple[dict[str, Any], ...] = ()
    own: str = "What is the capital of France, and why is it that one?"
    streamed: bool = False
    marked: bool = False

    def text(self, number: int) -> str:
        """Return the message of a call; no two are alike."""
        return f"{number}: {self.own}"

    def body(self, number: int) -> dict[str, Any]:
        """Return the call as the Messages API takes it."""
        mark = {"cache_control": {"type": "ephemeral"}}
        system = [{"type": "text", "text": self.system, **mark}] if self.marked else self.system
        return {
            "model": MODEL,
            "max_tokens": MAX_TOKENS,
            "system": system,
            "messages": [{"role": "user", "content": self.text(number)}],
            **({"tools": list(self.tools)} if self.tools else {}),
        }


def large_prompt() -> Prompt:
    """Return a prompt of 60 KB with twenty tools."""
    text = "You look after the orders of a shop, and these are its rules. "
    return Prompt(system=text * (LARGE // len(text)), tools=tuple(_tool(number) for number in range(20)))


def _tool(number: int) -> dict[str, Any]:
    fields = {
        name: {"type": "string", "description": f"The {name} of the order."} for name in ("id", "reason")
    }
    schema = {"type": "object", "properties": fields, "required": ["id"]}
    return {"name": f"change_order_{number}", "description": "Changes an order. " * 8, "input_schema": schema}


PROMPTS: dict[str, Callable[[], Prompt]] = {
    "small": Prompt,
    "large": large_prompt,
    "stream": lambda: Prompt(streamed=True),
}

Call = Callable[[int], Awaitable[str]]
"""Makes the call of a number and returns the text of the reply."""

Part = Callable[[Call, int], Coroutine[Any, Any, None]]
"""What an agent does: given how it calls, and its own number."""


class Side(Protocol):
    """Agents, as many as are wanted, that play a part."""

    async def __aenter__(self) -> Side: ...

    async def __aexit__(self, *error: object) -> None: ...

    async def enlist(self, agents: int) -> None:
        """Have this many agents, before anything is measured."""

    async def play(self, agents: int, part: Part) -> None:
        """Let the first agents play a part, all at once, and wait for all of them."""


@attrs.define(slots=True)
class Stage:
    """What all actors of a side share."""

    prompt: Prompt
    tools: bytes
    policy: CallPolicy
    part: Part | None = None
    priority: str = "normal"


@event
class Begin(Request[None]):
    """Play the part; the reply says that you have."""


class Caller(Actor):
    """An agent that calls through the pool."""

    def __init__(self, stage: Stage, number: int) -> None:
        self.stage = stage
        self.number = number
        self.front: Ref = self.service("io")

    @on(Begin)
    async def begin(self, begin: Begin) -> None:
        assert self.stage.part is not None
        await self.stage.part(self.call, self.number)

    async def call(self, number: int) -> str:
        """Make one call."""
        request = self.request(number)
        if self.stage.prompt.streamed:
            return await self.listen(request)
        return (await self.pool(request, None)).text

    async def listen(self, request: ModelRequest) -> str:
        """Make one call and read its text as it comes, as `Agent.stream` does."""
        stream = ModelStream()
        asked = asyncio.ensure_future(self.pool(request, stream))
        text = [piece.text async for piece in stream if isinstance(piece, Piece)]
        await asked
        return "".join(text)

    def request(self, number: int) -> ModelRequest:
        """Return a request as an agent makes it."""
        prompt = self.stage.prompt
        return ModelRequest(
            MODEL,
            messages=(encode_fragment({"role": "user", "content": prompt.text(number)}),),
            system=prompt.system,
            tools=self.stage.tools,
            max_tokens=MAX_TOKENS,
            agent=self.path,
            kind="Caller",
        )

    def pool(self, request: ModelRequest, stream: ModelStream | None) -> Coroutine[Any, Any, Completion]:
        """Ask the pool."""
        stage = self.stage
        return self.ask(self.front, Complete(request, stage.priority, stage.policy, stream), timeout=None)


class Machine:
    """avm's side: a VM as it comes, but for its observers.

    Args:
        clock: of the VM. With one, there is no store: its keeper would run as fast as the clock does.
    """

    def __init__(self, provider: Provider, prompt: Prompt, *, clock: Clock | None = None) -> None:
        tools = json.dumps(prompt.tools).encode() if prompt.tools else b""
        self.stage = Stage(prompt, tools, CallPolicy())
        options: dict[str, Any] = {} if clock is None else {"clock": clock, "memory": None, "watchdog": None}
        self.vm = VM(provider=provider, observers=[], **options)
        self.refs: list[Ref] = []

    async def __aenter__(self) -> Machine:
        await self.vm.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self.vm.__aexit__(*error)

    async def enlist(self, agents: int) -> None:
        """Have this many actors."""
        for number in range(len(self.refs), agents):
            self.refs.append(await self.vm.spawn(Caller, self.stage, number))

    async def troupe(self, stage: Stage, agents: int, part: Part) -> None:
        """Let other actors play a part on a stage of their own."""
        stage.part = part
        refs = [await self.vm.spawn(Caller, stage, number) for number in range(agents)]
        await asyncio.gather(*[self.vm.ask(ref, Begin(), timeout=None) for ref in refs])

    async def play(self, agents: int, part: Part) -> None:
        """Let the first actors play a part."""
        await self.enlist(agents)
        self.stage.part = part
        await asyncio.gather(*[self.vm.ask(ref, Begin(), timeout=None) for ref in self.refs[:agents]])


class Tasks:
    """A peer: bare tasks."""

    def __init__(self, prompt: Prompt) -> None:
        self.prompt = prompt
        self.stack = AsyncExitStack()

    async def __aenter__(self) -> Tasks:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.stack.aclose()

    async def enlist(self, agents: int) -> None:
        """Nothing to do: a task is made when it is to begin."""

    async def play(self, agents: int, part: Part) -> None:
        """Let tasks play a part."""
        await asyncio.gather(*[part(self.call, number) for number in range(agents)])

    async def call(self, number: int) -> str:
        """Make one call."""
        raise NotImplementedError


class Aiohttp(Tasks):
    """Tasks on aiohttp and json."""

    def __init__(self, url: str, prompt: Prompt) -> None:
        super().__init__(prompt)
        self.url = f"{url}/v1/messages"

    async def __aenter__(self) -> Aiohttp:
        import aiohttp

        connector = aiohttp.TCPConnector(limit=0)
        headers = {"content-type": "application/json", "x-api-key": KEY, "anthropic-version": "2023-06-01"}
        self.session = await self.stack.enter_async_context(
            aiohttp.ClientSession(connector=connector, headers=headers)
        )
        return self

    async def call(self, number: int) -> str:
        """Make one call."""
        body = self.prompt.body(number)
        if self.prompt.streamed:
            return await self.listen({**body, "stream": True})
        async with self.session.post(self.url, data=json.dumps(body)) as response:
            response.raise_for_status()
            text: str = json.loads(await response.read())["content"][0]["text"]
            return text

    async def listen(self, body: dict[str, Any]) -> str:
        """Make one call and read its events line by line."""
        text: list[str] = []
        async with self.session.post(self.url, data=json.dumps(body)) as response:
            response.raise_for_status()
            async for line in response.content:
                if line.startswith(b"data: "):
                    found = json.loads(line[6:])
                    if found["type"] == "content_block_delta":
                        text.append(found["delta"]["text"])
        return "".join(text)


class Sdk(Tasks):
    """Tasks on the anthropic SDK."""

    def __init__(self, url: str, prompt: Prompt, side: str) -> None:
        super().__init__(prompt)
        self.url = url
        self.side = side

    async def __aenter__(self) -> Sdk:
        import anthropic
        import httpx2

        options: dict[str, Any] = {"api_key": KEY, "base_url": self.url}
        if self.side != "sdk-default":
            options.update(max_retries=0, timeout=httpx2.Timeout(600.0, connect=60.0))
        if self.side == "sdk-aiohttp":
            limits = httpx2.Limits(max_connections=1000, max_keepalive_connections=1000)
            options["http_client"] = anthropic.DefaultAioHttpClient(limits=limits)
        self.client = await self.stack.enter_async_context(anthropic.AsyncAnthropic(**options))
        return self

    async def call(self, number: int) -> str:
        """Make one call."""
        body = self.prompt.body(number)
        if self.prompt.streamed:
            events = await self.client.messages.create(**body, stream=True)
            return "".join(
                [each.delta.text async for each in events if each.type == "content_block_delta"]  # type: ignore[union-attr]
            )
        message = await self.client.messages.create(**body)
        return message.content[0].text  # type: ignore[union-attr]


def make_side(
    side: str,
    url: str,
    prompt: Prompt,
    *,
    concurrency: int = 1000,
    limits: Limits | None = None,
    clock: Clock | None = None,
) -> Side:
    """Make the side of a name.

    Args:
        concurrency: calls of avm's that may be under way at once; the others know no limit.
        limits: what avm is told of the account; None leaves it to the responses.
        clock: of avm's VM.
    """
    if side == "avm":
        provider: Provider = MessagesProvider(url, KEY, concurrency=concurrency, limits=limits)
        return Machine(provider, prompt, clock=clock)
    if side == "avm-sdk":
        provider = AnthropicProvider(KEY, base_url=url, concurrency=concurrency, limits=limits)
        return Machine(provider, prompt, clock=clock)
    return Aiohttp(url, prompt) if side == "aiohttp" else Sdk(url, prompt, side)
