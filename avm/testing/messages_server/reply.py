"""What the simulated model says: a reply of a script, fitted to the request, as one message or as a stream's events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import attrs
import msgspec

from avm.testing.messages_server.call import CHARACTERS_PER_TOKEN, Call, tokens_of
from avm.testing.messages_server.ledger import UsageCounts
from avm.testing.messages_server.problem import ProblemError

StopReason = Literal[
    "end_turn",
    "max_tokens",
    "stop_sequence",
    "tool_use",
    "pause_turn",
    "refusal",
    "model_context_window_exceeded",
]

Block = dict[str, Any]


@attrs.frozen(slots=True)
class ServerReply:
    """One reply, whole.

    Args:
        content: text, or the blocks of the message.
        stop_reason: None is "tool_use" if a block is one, else "end_turn".
        output_tokens: None counts the characters of the content.
    """

    content: str | Sequence[Block] = ""
    stop_reason: StopReason | None = None
    stop_sequence: str | None = None
    output_tokens: int | None = None


Scripted = str | Block | Sequence[Block] | ServerReply
"""Text, a block, blocks, or a whole reply."""

Replies = str | ServerReply | Iterable[Scripted] | Callable[[Call], Scripted | Awaitable[Scripted]]
"""One reply for all requests, replies given in order, or a function of the request."""


@attrs.frozen(slots=True)
class Message:
    """A reply as it goes out: fitted to what the request allows."""

    id: str
    model: str
    blocks: tuple[Block, ...]
    stop_reason: str
    stop_sequence: str | None
    output_tokens: int

    def record(self, usage: UsageCounts) -> dict[str, Any]:
        """Return it as the API's message."""
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "content": self.blocks,
            "stop_reason": self.stop_reason,
            "stop_sequence": self.stop_sequence,
            "usage": usage.record(),
        }

    def events(self, usage: UsageCounts, delta_characters: int) -> list[bytes]:
        """Return it as the events of a stream, each with the empty line that ends it.

        Args:
            delta_characters: of the text of one delta.
        """
        begun = {**self.record(usage), "content": [], "stop_reason": None, "stop_sequence": None}
        begun["usage"] = {**begun["usage"], "output_tokens": min(1, self.output_tokens)}
        events = [event("message_start", message=begun)]
        for index, block in enumerate(self.blocks):
            events.append(event("content_block_start", index=index, content_block=_hollow(block)))
            if not index:
                events.append(event("ping"))
            events.extend(_deltas(block, index, delta_characters))
            events.append(event("content_block_stop", index=index))
        counted = usage.record()
        del counted["cache_creation"], counted["service_tier"]
        stop = {"stop_reason": self.stop_reason, "stop_sequence": self.stop_sequence}
        events.append(event("message_delta", delta=stop, usage=counted))
        events.append(event("message_stop"))
        return events


def event(kind: str, **fields: Any) -> bytes:
    """Return one event of a stream."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **fields}))


def fit(scripted: Scripted, call: Call, room: int | None, id: str) -> Message:
    """Return the message a reply makes for a request: cut at its stop sequences, its tokens and the context.

    Args:
        room: tokens the context has left; None is any number.
    """
    if type(scripted) is str and not call.stop_sequences and scripted:
        tokens = max(1, tokens_of(len(scripted)))
        if tokens <= call.max_tokens and (room is None or tokens <= room):
            # What most requests come to, and nothing is to be cut.
            text = {"type": "text", "text": scripted}
            return Message(id, call.model, (text,), "end_turn", None, tokens)
    reply = _whole(scripted)
    blocks = _blocks(reply)
    if not call.max_tokens:
        return Message(id, call.model, (), "max_tokens", None, 0)
    uses = any(block["type"] == "tool_use" for block in blocks)
    reason: str = reply.stop_reason or ("tool_use" if uses else "end_turn")
    sequence = reply.stop_sequence
    for wanted in call.stop_sequences:
        if (cut := _cut_at(blocks, wanted)) is not None:
            blocks, reason, sequence = cut, "stop_sequence", wanted
    tokens = reply.output_tokens if reply.output_tokens is not None else _tokens(blocks)
    for most, why in ((call.max_tokens, "max_tokens"), (room, "model_context_window_exceeded")):
        if most is not None and tokens > most:
            blocks, tokens, reason, sequence = _cut_to(blocks, most), most, why, None
    return Message(id, call.model, tuple(blocks), reason, sequence, tokens)


def echo(call: Call) -> str:
    """Answer without a model: say what was said, its first thirty words."""
    results = [block for block in call.last if block.get("type") == "tool_result"]
    if results:
        content = results[-1].get("content") or ""
        text = content if isinstance(content, str) else "".join(each.get("text", "") for each in content)
        return f"The tool says: {text}"
    words = call.text.split(None, 30)
    return f"You said: {' '.join(words[:30])}"


def _whole(scripted: Scripted) -> ServerReply:
    if isinstance(scripted, ServerReply):
        return scripted
    if isinstance(scripted, Mapping):
        return ServerReply([scripted])
    if isinstance(scripted, (str, list, tuple)):
        return ServerReply(scripted)
    raise ProblemError(
        "api_error",
        f"a reply of the test server must be text, a block, a list of blocks or a ServerReply, got {scripted!r}.",
    )


def _blocks(reply: ServerReply) -> list[Block]:
    if isinstance(reply.content, str):
        return [{"type": "text", "text": reply.content}] if reply.content else []
    return list(reply.content)


def _tokens(blocks: Sequence[Block]) -> int:
    characters = sum(
        len(block["text"]) if block["type"] == "text" else len(msgspec.json.encode(block)) for block in blocks
    )
    return max(1, tokens_of(characters))


def _cut_at(blocks: Sequence[Block], text: str) -> list[Block] | None:
    for place, block in enumerate(blocks):
        before, found, _ = block.get("text", "").partition(text)
        if found:
            kept = list(blocks[:place])
            return [*kept, {**block, "text": before}] if before else kept
    return None


# Text is cut; any other block is there whole or, if it has no room, not at all.
def _cut_to(blocks: Sequence[Block], tokens: int) -> list[Block]:
    left = int(tokens * CHARACTERS_PER_TOKEN)
    kept: list[Block] = []
    for block in blocks:
        if block["type"] == "text":
            if block["text"][:left]:
                kept.append({**block, "text": block["text"][:left]})
            left -= len(block["text"])
        elif (size := len(msgspec.json.encode(block))) <= left:
            kept.append(block)
            left -= size
        if left <= 0:
            break
    return kept


def _hollow(block: Block) -> Block:
    match block["type"]:
        case "text":
            return {**block, "text": ""}
        case "thinking":
            return {**block, "thinking": "", "signature": ""}
        case "tool_use":
            return {**block, "input": {}}
    return block


def _deltas(block: Block, index: int, characters: int) -> list[bytes]:
    kind = block["type"]
    if kind == "text":
        return _pieces(block["text"], index, characters, "text_delta", "text")
    if kind == "tool_use":
        text = msgspec.json.encode(block["input"]).decode()
        # The API's first piece is empty.
        empty = {"type": "input_json_delta", "partial_json": ""}
        first = event("content_block_delta", index=index, delta=empty)
        return [first, *_pieces(text, index, characters, "input_json_delta", "partial_json")]
    if kind == "thinking":
        signature = {"type": "signature_delta", "signature": block.get("signature", "")}
        pieces = _pieces(block["thinking"], index, characters, "thinking_delta", "thinking")
        return [*pieces, event("content_block_delta", index=index, delta=signature)]
    return []


def _pieces(text: str, index: int, characters: int, kind: str, field: str) -> list[bytes]:
    before = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"%s","%s":'
    before %= (index, kind.encode(), field.encode())
    encode = msgspec.json.encode
    return [
        b"%s%s}}\n\n" % (before, encode(text[start : start + characters]))
        for start in range(0, len(text), characters)
    ]
