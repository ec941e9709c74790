"""The scripted provider: deterministic, offline, and what a VM uses when it is told of no other.

A script is a list of replies given in order, or a function of the request; without one, `echo` answers. A latency
model says how long a reply takes and `faults` which requests fail, or where a stream breaks; a simulated server adds
limits, a prompt cache and accounts. So tests and examples meet what a hosted model would do to them.

Whoever looks gets the reply in pieces: it begins after a first share of its time, and what is said comes over the rest.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from random import Random
from typing import Any

import attrs

from avm.errors import BadOutput, ProviderConnection, SpecError
from avm.io.limits import Limits
from avm.io.prices import price_of
from avm.io.providers.provider import Capabilities, Delta, OnEvent, PlainProvider, Price, Started
from avm.io.providers.simulated import AcceptedCall, SimulatedServer
from avm.io.request import Completion, Message, ModelRequest, encode_fragment

Scripted = str | Message | Completion | Exception
"""One reply of a script: text, a whole neutral message, a whole reply, or an error to raise."""

Script = Iterable[Scripted] | Callable[[ModelRequest], Scripted | Awaitable[Scripted]]

Faults = Callable[[ModelRequest, int], Exception | None]
"""Called with each request and its number, counted from 1; an error it returns is raised in place of the reply, a
`CutStream` in the middle of it."""

Now = Callable[[], float]
Sleep = Callable[[float], Awaitable[object]]

PIECES = 5
"""In how many pieces a text comes, at most."""

_UNITS = {"ms": 0.001, "s": 1.0, "": 1.0}


@attrs.frozen(slots=True)
class Latency:
    """How long replies take: log-normal around `median` seconds; `sigma` 0 means always the median."""

    median: float = 0.0
    sigma: float = 0.0
    first: float = 0.4
    """The share of its time after which a reply begins."""

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.median < 3600 or not 0 <= self.sigma <= 3 or not 0 <= self.first <= 1:
            raise SpecError(
                "Latency: median must be 0 to 3600 seconds, sigma 0 to 3 and first 0 to 1, "
                f"got median={self.median!r}, sigma={self.sigma!r}, first={self.first!r}."
            )

    @classmethod
    def parse(cls, text: str) -> Latency:
        """Read "120ms", "0.2s", "0" (always the same) or "120ms~0.4" (log-normal with that sigma).

        Raises:
            SpecError: it is none of these.
        """
        found = re.fullmatch(r"\s*([0-9.]+)\s*(ms|s|)\s*(?:~\s*([0-9.]+))?\s*", text)
        try:
            if found is None:
                raise ValueError(text)
            return cls(float(found[1]) * _UNITS[found[2]], float(found[3] or 0.0))
        except ValueError as error:
            if isinstance(error, SpecError):
                raise
            raise SpecError(
                f"latency must read as 120ms, 0.2s, 0 or 120ms~0.4 (median~sigma), got {text!r}."
            ) from None

    def sample(self, random: Random) -> float:
        """Draw the seconds of one reply."""
        if not self.median or not self.sigma:
            return self.median
        return self.median * random.lognormvariate(0.0, self.sigma)

    def __str__(self) -> str:
        spread = f"~{_plain(self.sigma)}" if self.sigma else ""
        return f"{_plain(self.median * 1000)}ms{spread}"


REALISTIC = Latency(0.12, 0.35)
"""Around 120 ms, one reply in a hundred over 270: a fast hosted model giving short answers."""


def _plain(number: float) -> str:
    return f"{number:.6f}".rstrip("0").rstrip(".")


class CutStream(ProviderConnection):
    """A fault: the line breaks after so many pieces of the reply, or at its end if there are fewer.

    Args:
        after: pieces that still come; 0 cuts right after the reply has begun.
    """

    def __init__(self, after: int = 0) -> None:
        if after < 0:
            raise SpecError(f"CutStream: after must be 0 pieces or more, got {after!r}.")
        super().__init__(
            f"the line to the scripted provider broke after {after} pieces of the reply.", "scripted"
        )
        self.after = after


class ScriptedProvider(PlainProvider):
    """Answers from a script.

    Args:
        script: replies in order, or a function of the request, sync or async; None is `echo`.
        latency: how long replies take.
        faults: see `Faults`.
        seed: of the latencies.
        concurrency: calls at once; None leaves it to the pool.
        sleep: waits for seconds; default is the clock of the VM whose pool it serves, outside of one the event loop's.
        limits: what it says is allowed, enforced or not; default is what `server` enforces.
        server: limits, caches prompts and keeps accounts as a hosted provider does; None does nothing of it.
    """

    name = "scripted"

    def __init__(
        self,
        script: Script | None = None,
        *,
        latency: Latency | None = None,
        faults: Faults | None = None,
        seed: int = 0,
        concurrency: int | None = None,
        sleep: Sleep | None = None,
        limits: Limits | None = None,
        server: SimulatedServer | None = None,
    ) -> None:
        self.concurrency = concurrency
        self.latency = latency if latency is not None else Latency()
        self.server = server
        self.requests: int = 0
        self._limits = limits or (server.limits.limits if server is not None else Limits())
        self._faults = faults
        self._random = Random(seed)
        self._now: Now | None = None
        self._sleep = sleep
        self._chosen_sleep = sleep is not None
        self._function = script if callable(script) else None
        self._replies: Iterator[Scripted] | None = None
        if script is None:
            self._function = echo
        elif not callable(script):
            self._replies = iter([script] if isinstance(script, (str, dict)) else script)

    async def complete(self, request: ModelRequest, *, on_event: OnEvent | None = None) -> Completion:
        """Give the next reply of the script; in pieces if somebody looks."""
        self.requests += 1
        number = self.requests
        seconds = self.latency.sample(self._random)
        if self.server is not None:
            return await self._serve(self.server, request, number, seconds, on_event)
        if on_event is not None:
            return await self._begin(request, number, seconds, on_event, None)
        await self._wait(seconds)
        cut = self._fail(request, number)
        completion = await self._answer(request, number)
        if cut is not None:
            raise cut
        return completion

    def capabilities(self, model: str) -> Capabilities:
        """One family; a prompt cache if its server has one."""
        cache = self.server.cache if self.server is not None else None
        if cache is None:
            return Capabilities(family=self.name)
        return Capabilities(family=self.name, prompt_cache="prefix", min_cached_tokens=cache.min_tokens)

    def price(self, model: str) -> Price | None:
        """What its server charges, or the table says."""
        return price_of(model, self.server.prices if self.server is not None else None)

    def limits(self, model: str) -> Limits:
        """What it was told, for all models."""
        return self._limits

    async def _serve(
        self,
        server: SimulatedServer,
        request: ModelRequest,
        number: int,
        seconds: float,
        on_event: OnEvent | None,
    ) -> Completion:
        call = server.accept(request, self._time())
        try:
            completion = await self._begin(request, number, seconds, on_event, call)
        except BaseException:
            server.give_up(call, self._time())
            raise
        return server.settle(call, completion, self._time())

    async def _begin(
        self,
        request: ModelRequest,
        number: int,
        seconds: float,
        on_event: OnEvent | None,
        call: AcceptedCall | None,
    ) -> Completion:
        await self._wait(seconds * self.latency.first)
        cut = self._fail(request, number)
        completion = await self._answer(request, number)
        limits = None
        if call is not None and self.server is not None:
            self.server.begun(call, self._time())
            limits = self.server.limits.told(self._time())
        rest = seconds * (1 - self.latency.first)
        if on_event is None:
            await self._wait(rest)
        else:
            on_event(Started(completion.request_id, limits))
            await self._say(completion, rest, on_event, cut)
        if cut is not None:
            raise cut
        return completion

    async def _say(
        self, completion: Completion, seconds: float, on_event: OnEvent, cut: CutStream | None
    ) -> None:
        deltas = pieces_of(completion)
        for number, delta in enumerate(deltas):
            if cut is not None and number >= cut.after:
                return
            await self._wait(seconds / len(deltas))
            on_event(delta)
        if not deltas:
            await self._wait(seconds)

    # Raises the fault of a request; returns it if it is one for later.
    def _fail(self, request: ModelRequest, number: int) -> CutStream | None:
        fault = self._faults(request, number) if self._faults is not None else None
        if fault is None or isinstance(fault, CutStream):
            return fault
        raise fault

    async def _answer(self, request: ModelRequest, number: int) -> Completion:
        reply = await self.reply(request, number)
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, Completion) else as_completion(reply, request, self.name)

    async def _wait(self, seconds: float) -> None:
        if seconds:
            await (self._sleep or asyncio.sleep)(seconds)

    def _time(self) -> float:
        return self._now() if self._now is not None else asyncio.get_running_loop().time()

    async def reply(self, request: ModelRequest, number: int) -> Scripted:
        """Return what the script says to request `number`."""
        if self._replies is not None:
            for reply in self._replies:
                return reply
            raise BadOutput(
                f"the script of the scripted provider has no reply for request {number} (by {request.agent!r}, "
                f"{request.position} messages); give it more replies, or a function.",
                self.name,
                request.model,
            )
        assert self._function is not None
        reply_or_wait: Any = self._function(request)
        if inspect.isawaitable(reply_or_wait):
            reply_or_wait = await reply_or_wait
        found: Scripted = reply_or_wait
        return found

    def use_sleep(self, sleep: Sleep) -> None:
        """Wait with this from now on, unless it was told at its making how to."""
        if not self._chosen_sleep:
            self._sleep = sleep

    def use_clock(self, now: Now, sleep: Sleep) -> None:
        """Live on this clock from now on, as `use_sleep`; the pool calls it when it starts."""
        self._now = now
        self.use_sleep(sleep)


def pieces_of(completion: Completion) -> list[Delta]:
    """Return a reply as the pieces it comes in: its words in a handful, then the arguments of each tool call."""
    words = re.findall(r"\s*\S+|\s+$", completion.text)
    size = -(-len(words) // PIECES)
    deltas = [Delta("".join(words[start : start + size])) for start in range(0, len(words), size or 1)]
    first = 1 if words else 0
    deltas.extend(
        Delta(call.arguments, "tool", first + number) for number, call in enumerate(completion.tool_calls)
    )
    return deltas


def as_completion(reply: str | Message, request: ModelRequest, provider: str) -> Completion:
    """Make a whole reply of text or of a neutral message."""
    message = {"role": "assistant", "content": reply} if isinstance(reply, str) else reply
    if message.get("role") != "assistant" or not isinstance(message.get("content"), str):
        raise BadOutput(
            f"a scripted message needs 'role': 'assistant' and text as 'content', got {message!r}.",
            provider,
            request.model,
        )
    return Completion(
        fragment=encode_fragment(message),
        stop_reason="tool_use" if message.get("tool_calls") else "end_turn",
        model=request.model,
        provider=provider,
    )


def echo(request: ModelRequest) -> str:
    """Answer without a model: give back what was said, the essence of it when it is long.

    A tool's result is told as the answer; the first sentence stands for a text of more than thirty words.
    """
    last: Message = {"role": "user", "content": ""}
    for message in request.history():
        last = message
    text = " ".join(last["content"].split())
    if last["role"] == "tool":
        return f"{last.get('name', 'The tool')} says: {text}"
    words = text.split()
    if not words:
        return "You said nothing."
    if len(words) <= 30:
        return f"You said: {text}"
    sentence = re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0]
    short = sentence if len(sentence.split()) <= 30 else " ".join(words[:20]) + " ..."
    return f"In {len(words)} words you said, first of all: {short}"
