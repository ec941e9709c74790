"""ModelStream: the text of one reply while it comes, shared by the worker that fills it and the one who listens.

    worker: attempt, push, push ...  finish        listener: async for, or StreamReady and read_nowait
                  |                                     ^
                  +--> fresh: not read yet ------> told: what the listener has

An offset counts characters over all blocks of the reply, in the order in which they came: text, thinking and the
arguments of tool calls alike. What the listener has not read yet is one run of text for each block, so a slow one
finds a few long pieces and memory holds the reply once.

A call that is tried again begins anew. As long as the new attempt says what the listener has already, nothing is
told; where it differs, or ends sooner, `Restart(offset)` takes back what was told from there on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Literal

import attrs

from avm.actors.event import ATOMS, event
from avm.actors.ref import Pid, Ref
from avm.io.providers.provider import Delta, StreamEvent
from avm.io.request import Completion

PARTS = 256
"""Pieces of one block that are kept as they came; more are joined, as each costs fifty bytes of its own."""

Kind = Literal["text", "thinking", "tool"]


@attrs.frozen(slots=True)
class Piece:
    """New text of one block; `offset` is how many characters of the whole reply come before it."""

    offset: int
    text: str
    kind: Kind = "text"
    """"tool": a piece of the arguments of a tool call."""
    block: int = 0
    """Which block of the reply it belongs to, from 0."""


@attrs.frozen(slots=True)
class Restart:
    """What was told from this offset on is void; what comes instead follows, if anything does."""

    offset: int


class ModelStream:
    """The text of one reply while it comes. One thread uses it, one listener reads it; any number wait for the result.

    Args:
        listener: called when there is something to read, at most once between two reads; quick, and does not raise.
    """

    __slots__ = (
        "__weakref__",
        "_at",
        "_completion",
        "_end",
        "_error",
        "_fresh",
        "_is_over",
        "_is_silent",
        "_knows",
        "_listener",
        "_news",
        "_restart",
        "_told",
    )

    def __init__(self, listener: Callable[[], None] | None = None) -> None:
        self._listener = listener
        # Whether it was told that there is something, since the last read.
        self._knows = False
        self._told = _Text()
        self._fresh = _Text()
        # How far the attempt is in what was told before it began; None when it is past that.
        self._at: int | None = None
        self._restart: int | None = None
        # Whether the attempt has said nothing yet.
        self._is_silent = True
        self._completion: Completion | None = None
        self._error: BaseException | None = None
        self._news = asyncio.Event()
        self._end = asyncio.Event()
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether the call has ended, well or not; there may be text left to read."""
        return self._is_over

    @property
    def completion(self) -> Completion | None:
        """The whole reply; None before it is finished, and if it failed."""
        return self._completion

    @property
    def error(self) -> BaseException | None:
        """What the call failed with."""
        return self._error

    def __repr__(self) -> str:
        state = (
            "finished" if self._completion is not None else "failed" if self._error is not None else "open"
        )
        return f"<ModelStream {state}, {self._told.size} characters read, {self._fresh.size} to read>"

    # The side that fills it.

    def attempt(self) -> None:
        """Begin a new attempt at the call: what was not read of the one before is replaced by what comes now."""
        if self.is_over:
            return
        self._fresh = _Text()
        self._at = 0 if self._told.size else None
        self._is_silent = True

    def push(self, event: StreamEvent) -> None:
        """Take an event of the response. What comes after the end is ignored: a line may take time to close."""
        if not isinstance(event, Delta) or self._is_over or not event.text:
            return
        self._is_silent = False
        # What was told already is not told again.
        text = event.text if self._at is None else self._unknown(event)
        if text:
            self._fresh.add(text, event.kind, event.block)
            if not self._knows:
                self._tell()

    def finish(self, completion: Completion) -> None:
        """End it with the reply. Text of a reply that came in one piece, such as a kept one, is told now."""
        if self.is_over:
            return
        if self._is_silent:
            for delta in _deltas(completion):
                self.push(delta)
        if self._at is not None:
            self._take_back(self._at)
        self._completion = completion
        self._ended()

    def fail(self, error: BaseException) -> None:
        """End it with an error, which whoever reads gets after the text that came before."""
        if self.is_over:
            return
        self._error = error
        self._ended()

    # The side that reads it.

    def read_nowait(self) -> list[Piece | Restart]:
        """Return all that came since the last read, text of one block as one piece; empty if nothing did."""
        found: list[Piece | Restart] = []
        if self._restart is not None:
            found.append(Restart(self._restart))
            self._restart = None
        for run in self._fresh.runs:
            text = run.text
            found.append(Piece(self._told.size, text, run.kind, run.block))
            self._told.add(text, run.kind, run.block)
        self._fresh = _Text()
        self._knows = False
        if not self.is_over:
            self._news.clear()
        return found

    async def __aiter__(self) -> AsyncIterator[Piece | Restart]:
        """Go through what comes, until the reply is finished.

        Raises:
            ProviderError, or what else the call failed with, after the text that came before.
        """
        while True:
            found = self.read_nowait()
            for each in found:
                yield each
            if found:
                continue
            if self.is_over:
                break
            await self._news.wait()
        if self._error is not None:
            raise self._error

    async def result(self) -> Completion:
        """Wait for the whole reply and return it; takes nothing from whoever reads.

        Raises:
            ProviderError, or what else the call failed with.
        """
        await self._end.wait()
        if self._completion is None:
            assert self._error is not None
            raise self._error
        return self._completion

    # Private.

    def _unknown(self, delta: Delta) -> str:
        """Return the part of a delta that goes on from what was told; the rest was told already."""
        assert self._at is not None
        same = self._told.shared(self._at, delta)
        self._at += same
        if same < len(delta.text) and self._at < self._told.size:
            self._take_back(self._at)
        elif self._at == self._told.size:
            self._at = None
        return delta.text[same:]

    def _take_back(self, offset: int) -> None:
        self._told.cut(offset)
        self._restart = offset
        self._at = None

    def _ended(self) -> None:
        self._is_over = True
        self._end.set()
        self._tell()

    def _tell(self) -> None:
        self._news.set()
        if not self._knows:
            self._knows = True
            if self._listener is not None:
                self._listener()


# Streams are shared, not copied: who gets one in an event reads what the worker writes.
ATOMS.add(ModelStream)


@event(tag="avm.io.StreamReady")
class StreamReady:
    """There is something to read in a stream: `stream.read_nowait()` returns it, `stream.is_over` tells the end."""

    stream: ModelStream


def to_actor(ref: Ref | Pid, tell: Callable[[Ref | Pid, StreamReady], None]) -> ModelStream:
    """Return a stream that sends an actor `StreamReady`, once after each of its reads, when there is something.

    Args:
        tell: sends an event to an actor, such as `kernel.tell`.
    """
    # It is called only with text, when the stream has long been made.
    stream = ModelStream(lambda: tell(ref, StreamReady(stream)))
    return stream


class _Run:
    """Text of one block, in the pieces that came."""

    __slots__ = ("block", "kind", "parts", "size")

    def __init__(self, kind: Kind, block: int) -> None:
        self.kind: Kind = kind
        self.block = block
        self.size = 0
        self.parts: list[str] = []

    @property
    def text(self) -> str:
        if len(self.parts) != 1:
            self.join()
        return self.parts[0]

    def join(self) -> None:
        self.parts = ["".join(self.parts)]

    def cut(self, size: int) -> None:
        self.parts = [self.text[:size]]
        self.size = size


class _Text:
    """Runs of text in the order in which they came; two neighbours are never of one block."""

    __slots__ = ("runs", "size")

    def __init__(self) -> None:
        self.runs: list[_Run] = []
        self.size = 0

    def add(self, text: str, kind: Kind, block: int) -> None:
        runs = self.runs
        last = runs[-1] if runs else None
        if last is None or last.block != block or last.kind != kind:
            last = _Run(kind, block)
            runs.append(last)
        parts, size = last.parts, len(text)
        parts.append(text)
        last.size += size
        self.size += size
        if len(parts) > PARTS:
            last.join()

    def cut(self, size: int) -> None:
        while self.runs and self.size - self.runs[-1].size >= size:
            self.size -= self.runs.pop().size
        if self.size > size:
            last = self.runs[-1]
            last.cut(last.size - (self.size - size))
            self.size = size

    def shared(self, offset: int, delta: Delta) -> int:
        """Return how many characters of a delta are those from an offset on; 0 where another block is."""
        for run in self.runs:
            if offset < run.size:
                break
            offset -= run.size
        else:
            return 0
        if run.kind != delta.kind or run.block != delta.block:
            return 0
        known = run.text[offset : offset + len(delta.text)]
        if delta.text.startswith(known):
            return len(known)
        return next(n for n, (old, new) in enumerate(zip(known, delta.text, strict=False)) if old != new)


def _deltas(completion: Completion) -> list[Delta]:
    """Return the text of a reply as a provider would have streamed it; what the model thought is not kept."""
    text = completion.message.get("content")
    found = [Delta(text)] if isinstance(text, str) and text else []
    for block, call in enumerate(completion.tool_calls, len(found)):
        found.append(Delta(call.arguments, "tool", block))
    return found
