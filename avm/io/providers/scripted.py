"""The scripted provider: deterministic, offline, and what a VM uses when it is told of no other.

A script is a list of replies given in order, or a function of the request; without one, `echo` answers. A latency
model says how long a reply takes and `faults` which requests fail, so that tests and examples meet what a hosted
model would do to them.
"""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from random import Random
from typing import Any

import attrs

from avm.errors import BadOutput, SpecError
from avm.io.request import Completion, Message, ModelRequest, encode_fragment

Scripted = str | Message | Completion | Exception
"""One reply of a script: text, a whole neutral message, a whole reply, or an error to raise."""

Script = Iterable[Scripted] | Callable[[ModelRequest], Scripted | Awaitable[Scripted]]

Faults = Callable[[ModelRequest, int], Exception | None]
"""Called with each request and its number, counted from 1; an error it returns is raised in place of the reply."""

Sleep = Callable[[float], Awaitable[object]]

_UNITS = {"ms": 0.001, "s": 1.0, "": 1.0}


@attrs.frozen(slots=True)
class Latency:
    """How long replies take: log-normal around `median` seconds; `sigma` 0 means always the median."""

    median: float = 0.0
    sigma: float = 0.0

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.median < 3600 or not 0 <= self.sigma <= 3:
            raise SpecError(
                "Latency: median must be 0 to 3600 seconds and sigma 0 to 3, "
                f"got median={self.median!r}, sigma={self.sigma!r}."
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


class ScriptedProvider:
    """Answers from a script.

    Args:
        script: replies in order, or a function of the request, sync or async; None is `echo`.
        latency: how long replies take.
        faults: see `Faults`.
        seed: of the latencies.
        concurrency: calls at once; None leaves it to the pool.
        sleep: waits for seconds; default is the clock of the VM whose pool it serves, outside of one the event loop's.
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
    ) -> None:
        self.concurrency = concurrency
        self.latency = latency if latency is not None else Latency()
        self.requests: int = 0
        self._faults = faults
        self._random = Random(seed)
        self._sleep = sleep
        self._chosen_sleep = sleep is not None
        self._function = script if callable(script) else None
        self._replies: Iterator[Scripted] | None = None
        if script is None:
            self._function = echo
        elif not callable(script):
            self._replies = iter([script] if isinstance(script, (str, dict)) else script)

    async def complete(self, request: ModelRequest) -> Completion:
        """Give the next reply of the script."""
        self.requests += 1
        number = self.requests
        seconds = self.latency.sample(self._random)
        if seconds:
            await (self._sleep or asyncio.sleep)(seconds)
        fault = self._faults(request, number) if self._faults is not None else None
        if fault is not None:
            raise fault
        reply = await self.reply(request, number)
        if isinstance(reply, Exception):
            raise reply
        return reply if isinstance(reply, Completion) else as_completion(reply, request, self.name)

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
        """Wait with this from now on, unless it was told at its making how to; the pool calls it when it starts."""
        if not self._chosen_sleep:
            self._sleep = sleep

    async def close(self) -> None:
        """Nothing to give up."""


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
