"""Accumulator: a reply that comes as events, put together to what it would have been in one piece.

Each event of a Messages API stream is decoded once and its text laid aside; only at the end is it joined. Whoever
looks on is told of each piece as it comes; if nobody does, there is nothing to tell.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from avm.errors import ProviderConnection, ProviderFailed
from avm.io.limits import RateLimits
from avm.io.providers.provider import Delta, OnEvent, Started
from avm.io.providers.shape import Block, Tokens, encode_reply, read_block, to_call, to_input, to_usage
from avm.io.request import Completion

OnError = Callable[[str, str], Exception]
"""Makes the error to raise of what the stream says: its type ("overloaded_error") and its words."""

Kind = Literal["text", "thinking", "tool"]

NOTHING = msgspec.Raw(b"")


class _Piece(msgspec.Struct):
    type: str = ""
    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    signature: str = ""
    citation: msgspec.Raw = NOTHING
    stop_reason: str | None = None


class _Start(msgspec.Struct):
    model: str = ""
    stop_reason: str | None = None
    usage: Tokens | None = None


class _Complaint(msgspec.Struct):
    type: str = ""
    message: str = ""


class _Event(msgspec.Struct):
    type: str
    index: int = 0
    delta: _Piece | None = None
    content_block: msgspec.Raw = NOTHING
    message: _Start | None = None
    usage: Tokens | None = None
    error: _Complaint | None = None


_event = msgspec.json.Decoder(_Event)


class Accumulator:
    """Takes the events of one stream.

    Args:
        provider: what the completion and errors call it.
        on_event: is told of the reply as it comes; `Started` first.
        request_id: of the response, for the completion and errors.
        on_error: makes the error for an `error` event; without it that is a ProviderFailed.
        limits: what the headers of the response say of them, for `Started`.
    """

    __slots__ = (
        "_blocks",
        "_has_begun",
        "_limits",
        "_model",
        "_on_error",
        "_on_event",
        "_provider",
        "_request_id",
        "_stop",
        "_usage",
        "is_complete",
    )

    def __init__(
        self,
        provider: str,
        on_event: OnEvent | None = None,
        *,
        request_id: str = "",
        on_error: OnError | None = None,
        limits: RateLimits | None = None,
    ) -> None:
        self.is_complete = False
        """Whether the stream has said that the reply ends."""
        self._provider = provider
        self._on_event = on_event
        self._on_error = on_error
        self._request_id = request_id
        self._limits = limits
        self._blocks: dict[int, _Growing] = {}
        self._has_begun = False
        self._model = ""
        self._stop: str | None = None
        self._usage: Tokens | None = None

    def feed(self, data: bytes) -> None:
        """Take one event: the JSON after `data:`. Kinds of events that are not known are passed over.

        Raises:
            msgspec.DecodeError: it is not JSON, or not such an event; says where.
            ProviderError: it is an error; as `on_error` made it.
        """
        try:
            event = _event.decode(data)
            kind = event.type
            if kind == "content_block_delta":
                self._grow(event, data)
            elif kind == "content_block_start":
                self._open(event)
            elif kind == "message_start":
                self._start(event.message or _Start())
            elif kind == "message_delta":
                self._end(event)
            elif kind == "message_stop":
                self.is_complete = True
        except (UnicodeDecodeError, RecursionError) as error:
            raise msgspec.DecodeError(str(error)) from error
        if kind == "error":
            raise self._error(event.error or _Complaint())

    def result(self) -> Completion:
        """Return the reply, as `from_reply` would have read it in one piece.

        Raises:
            ProviderConnection: the stream ended before the reply did (`is_complete` tells).
        """
        if not self.is_complete:
            raise ProviderConnection(
                f"{self._provider} closed the stream of {self._model or 'a reply'!r} in block {len(self._blocks)}, "
                f"before message_stop (request {self._request_id or 'without id'}); ask again.",
                self._provider,
                self._model,
                self._request_id,
            )
        blocks = list(self._blocks.values())
        calls = [block.call() for block in blocks if block.kind == "tool_use"]
        whole = all(block.is_plain for block in blocks)
        return Completion(
            fragment=encode_reply(
                "".join([block.joined("text") for block in blocks if block.kind == "text"]),
                calls,
                None if whole else [block.block() for block in blocks],
            ),
            stop_reason=self._stop or "end_turn",
            model=self._model,
            usage=to_usage(self._usage),
            provider=self._provider,
            request_id=self._request_id,
        )

    # One method for each kind of event.

    def _start(self, start: _Start) -> None:
        self._model = start.model
        self._stop = start.stop_reason
        self._usage = start.usage
        self._begin()

    # Some servers say what they begin with only after the first piece of it.
    def _begin(self) -> None:
        if self._on_event is not None and not self._has_begun:
            self._has_begun = True
            self._on_event(Started(self._request_id, self._limits))

    def _open(self, event: _Event) -> None:
        self._begin()
        block = self._blocks[event.index] = _Growing(event.content_block)
        if self._on_event is None:
            return
        # Some servers begin a block with text in it.
        for name, kind in _SHOWN.items():
            text = block.start.get(name)
            if text and block.kind == name:
                self._on_event(Delta(text, kind, event.index))

    def _grow(self, event: _Event, data: bytes) -> None:
        block = self._blocks.get(event.index)
        delta = event.delta
        if block is None or delta is None:
            what = "has not begun" if block is None else "has no delta"
            raise msgspec.ValidationError(f"content_block_delta: block {event.index} {what}")
        kind = delta.type
        shown: Kind
        if kind == "text_delta":
            name, text, shown = "text", delta.text, "text"
        elif kind == "input_json_delta":
            name, text, shown = "input", delta.partial_json, "tool"
        elif kind == "thinking_delta":
            name, text, shown = "thinking", delta.thinking, "thinking"
        else:
            block.grow_otherwise(delta, data)
            return
        if text:
            pieces = block.grown.get(name)
            if pieces is None:
                block.grown[name] = [text]
            else:
                pieces.append(text)
            if self._on_event is not None:
                self._on_event(Delta(text, shown, event.index))

    def _end(self, event: _Event) -> None:
        if event.delta is not None and event.delta.stop_reason is not None:
            self._stop = event.delta.stop_reason
        if event.usage is not None:
            self._usage = event.usage if self._usage is None else _newer(self._usage, event.usage)

    def _error(self, complaint: _Complaint) -> Exception:
        if self._on_error is not None:
            return self._on_error(complaint.type, complaint.message)
        return ProviderFailed(
            f"{self._provider} broke off the stream of {self._model or 'a reply'!r}: {complaint.type or 'error'}: "
            f"{complaint.message} (request {self._request_id or 'without id'}); ask again.",
            self._provider,
            self._model,
            self._request_id,
        )


_SHOWN: dict[str, Kind] = {"text": "text", "thinking": "thinking"}


class _Growing:
    """A block while it comes: how it began, and the pieces of its strings since."""

    __slots__ = ("_citations", "_said", "grown", "start")

    def __init__(self, start: bytes) -> None:
        self._said = read_block(start)
        self.start: Block = msgspec.json.decode(start)
        self.grown: dict[str, list[str]] = {}
        self._citations: list[Any] = []

    @property
    def kind(self) -> str:
        return self._said.type

    @property
    def is_plain(self) -> bool:
        return self._said.is_plain and not self._citations

    def grow(self, name: str, text: str) -> None:
        """Add text to one of its strings."""
        pieces = self.grown.get(name)
        if pieces is None:
            pieces = self.grown[name] = []
        pieces.append(text)

    def grow_otherwise(self, delta: _Piece, data: bytes) -> None:
        """Add what is rare: a signature, a citation, and the strings of deltas that are not known."""
        if delta.type == "signature_delta":
            self.grow("signature", delta.signature)
        elif delta.type == "citations_delta":
            self._citations.append(msgspec.json.decode(delta.citation))
        else:
            for name, value in msgspec.json.decode(data)["delta"].items():
                if name != "type" and isinstance(value, str):
                    self.grow(name, value)

    def joined(self, name: str) -> str:
        """Return one of its strings as it is now."""
        begun = self.start.get(name)
        return (begun if isinstance(begun, str) else "") + "".join(self.grown.get(name, ()))

    def arguments(self) -> str:
        """Return the input of a tool call as the model wrote it."""
        # A block begins with an empty input, in place of which the text comes; or with all of it, and no text comes.
        return "".join(self.grown.get("input", ())) or bytes(self._said.input).decode()

    def call(self) -> dict[str, str]:
        """Return it as a tool call of the neutral message."""
        return to_call(self._said.id, self._said.name, self.arguments())

    def block(self) -> Block:
        """Return it as it would have come in one piece."""
        block = dict(self.start)
        for name in self.grown:
            block[name] = to_input(self.arguments()) if name == "input" else self.joined(name)
        if self._citations:
            block["citations"] = [*(block.get("citations") or ()), *self._citations]
        return block


def _newer(old: Tokens, new: Tokens) -> Tokens:
    """Return the counts of `new`, which go on from those of `old`, and those of `old` that it says nothing of."""
    found = [
        value if value is not None else getattr(old, name)
        for name, value in msgspec.structs.asdict(new).items()
    ]
    return Tokens(*found)
