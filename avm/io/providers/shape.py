"""Neutral messages to the Messages API and back.

The API wants turns to alternate and all results of one step in one user message, so neighbours of one role are joined.
Empty text is left out, since the API refuses it. What a model may say besides text and tool calls (thinking with its
signature, say) is kept under "blocks" of the neutral message and goes back as it came.

`Turns` is the same encoded: messages are added as they come, and what was encoded stays as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from avm.io.request import Completion, Message, Usage, decode_fragment, encode_fragment

Block = dict[str, Any]
"""One block of a message's content, as the API has it."""

_encode = msgspec.json.Encoder().encode


# To the API.


def to_turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Return the `messages` of an API request."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        blocks = _blocks(message)
        if not blocks:
            continue
        role = _role(message)
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"].extend(blocks)
        else:
            turns.append({"role": role, "content": blocks})
    return turns


def to_input(arguments: str) -> dict[str, Any]:
    """Return the input of a tool call from the text a model wrote.

    The API takes an object only; what was written otherwise (shell text, broken JSON) is shown to the model under one
    key.
    """
    try:
        found = msgspec.json.decode(arguments) if arguments.strip() else {}
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        found = None
    return found if isinstance(found, dict) else {"arguments": arguments}


def _role(message: Message) -> str:
    return "assistant" if message["role"] == "assistant" else "user"


def _blocks(message: Message) -> list[Block]:
    if message["role"] == "tool":
        block = {
            "type": "tool_result",
            "tool_use_id": message.get("tool_call_id", ""),
            "content": message["content"],
        }
        if message.get("is_error"):
            block["is_error"] = True
        return [block]
    if message.get("blocks"):
        return list(message["blocks"])
    blocks: list[Block] = []
    if message["content"].strip():
        blocks.append({"type": "text", "text": message["content"]})
    for call in message.get("tool_calls") or ():
        blocks.append(
            {"type": "tool_use", "id": call["id"], "name": call["name"], "input": to_input(call["arguments"])}
        )
    return blocks


OPENING = {role: b'{"role":"%b","content":[' % role.encode() for role in ("user", "assistant")}
"""How an encoded turn of a role begins, up to its first block."""

CLOSING = b"]}"
"""How it ends."""

BREAKPOINT = b'"cache_control":'
"""In encoded JSON it is a key: inside a string the quotes would be escaped."""


# One that is sure not to be blank, since it begins with a printable character.
_PLAIN = re.compile(rb'\{"role":"user","content":"([!#-\[\]-~](?:[^"\\]+|\\.)*)"\}')
_PLAIN_OPENING = OPENING["user"] + b'{"type":"text","text":"'


class Turns:
    """A stretch of messages as turns of the Messages API, encoded. It grows at its end and nowhere else.

    The last turn is not closed, so what follows can be joined to it. For every number of messages it is known where
    they end, so earlier versions of a conversation use the same bytes.

    Attributes:
        text: the turns, joined by commas, without the `CLOSING` of the last.
        begins: the role of the first turn; empty if there is none.
        ends: where each message ends in `text`.
        roles: the role of the last turn after each message; empty if there is none yet.
        marks: where, after each message, a `cache_control` for all before goes into `text`; 0 if nowhere.
        own: how many cache breakpoints the messages brought along.
    """

    __slots__ = ("begins", "ends", "marks", "own", "roles", "text")

    PER_MESSAGE = 100
    """Bytes that are kept of a message besides its text, about."""

    def __init__(self, messages: Iterable[Message] = ()) -> None:
        self.text = bytearray()
        self.begins = ""
        self.ends: list[int] = []
        self.roles: list[str] = []
        self.marks: list[int] = []
        self.own = 0
        self.extend(messages)

    @classmethod
    def of_fragment(cls, fragment: bytes) -> Turns:
        """Return the turn of one message. A user's plain text need not be decoded: its JSON goes over as it stands."""
        plain = _PLAIN.fullmatch(fragment)
        if plain is None:
            return cls((decode_fragment(fragment),))
        turns = cls()
        text = turns.text
        text += _PLAIN_OPENING
        text += plain[1]
        text += b'"'
        # The mark goes before the brace that ends the block.
        turns.marks.append(len(text))
        text += b"}"
        turns.begins = "user"
        turns.ends.append(len(text))
        turns.roles.append("user")
        return turns

    @property
    def size(self) -> int:
        """Bytes it takes of RAM, about."""
        return len(self.text) + self.PER_MESSAGE * (len(self.ends) + 2)

    def __len__(self) -> int:
        return len(self.ends)

    def extend(self, messages: Iterable[Message]) -> None:
        """Add messages at the end: all, or none if one of them is no neutral message."""
        found = [
            (_role(message), [_encode_block(block) for block in _blocks(message)]) for message in messages
        ]
        role = self.roles[-1] if self.roles else ""
        mark = self.marks[-1] if self.marks else 0
        for spoke, blocks in found:
            if blocks:
                role = self._turn_to(spoke, role)
                mark = self._add(blocks) or mark
            self.ends.append(len(self.text))
            self.roles.append(role)
            self.marks.append(mark)

    def _turn_to(self, role: str, last: str) -> str:
        if role == last:
            self.text += b","
            return role
        if last:
            self.text += CLOSING + b","
        else:
            self.begins = role
        self.text += OPENING[role]
        return role

    def _add(self, blocks: Sequence[tuple[bytes, bool]]) -> int:
        text = self.text
        mark = 0
        for number, (block, takes_breakpoint) in enumerate(blocks):
            if number:
                text += b","
            text += block
            own = block.count(BREAKPOINT)
            self.own += own
            if takes_breakpoint and not own:
                mark = len(text) - 1
        return mark


def _encode_block(block: Block) -> tuple[bytes, bool]:
    """Return a block as JSON, and whether the API takes a breakpoint on it."""
    try:
        return _encode(block), _takes_breakpoint(block)
    except UnicodeEncodeError:
        # Half a surrogate pair, which recorded texts do hold, is no UTF-8: it is escaped.
        return json.dumps(block, separators=(",", ":")).encode(), _takes_breakpoint(block)


def _takes_breakpoint(block: Block) -> bool:
    # Not on thinking, and not on empty text.
    kind = block.get("type")
    if kind == "text":
        text = block.get("text")
        return isinstance(text, str) and bool(text.strip())
    return kind is not None and kind not in ("thinking", "redacted_thinking")


# From the API.


class ReplyBlock(msgspec.Struct):
    """A block of a reply, as far as avm looks into it."""

    type: str
    text: str = ""
    id: str = ""
    name: str = ""
    # As the model wrote it: the neutral message keeps this text, not what it means.
    input: msgspec.Raw = msgspec.Raw(b"{}")
    citations: list[msgspec.Raw] | None = None

    @property
    def is_plain(self) -> bool:
        """Whether the neutral message says all of it in `content` or `tool_calls`."""
        return self.type == "tool_use" or (self.type == "text" and not self.citations)


class Tokens(msgspec.Struct):
    """What a reply, or an event of one, says of the tokens it took; None where it says nothing."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None


class _Reply(msgspec.Struct):
    content: list[msgspec.Raw]
    model: str = ""
    stop_reason: str | None = None
    usage: Tokens | None = None


_reply = msgspec.json.Decoder(_Reply)

read_block = msgspec.json.Decoder(ReplyBlock).decode
"""Reads a block of a reply. Raises msgspec.DecodeError if it is none."""


def from_reply(body: bytes, provider: str, request_id: str) -> Completion:
    """Read the body of an API response.

    Raises:
        msgspec.DecodeError: it is not JSON, or not such a response; says where.
    """
    try:
        reply = _reply.decode(body)
        blocks = [read_block(raw) for raw in reply.content]
        calls = [to_call(b.id, b.name, bytes(b.input).decode()) for b in blocks if b.type == "tool_use"]
        whole = all(block.is_plain for block in blocks)
        kept = None if whole else [msgspec.json.decode(raw) for raw in reply.content]
    except (UnicodeDecodeError, RecursionError) as error:
        raise msgspec.DecodeError(str(error)) from error
    text = "".join([block.text for block in blocks if block.type == "text"])
    return Completion(
        fragment=encode_reply(text, calls, kept),
        stop_reason=reply.stop_reason or "end_turn",
        model=reply.model,
        usage=to_usage(reply.usage),
        provider=provider,
        request_id=request_id,
    )


def to_call(id: str, name: str, arguments: str) -> dict[str, str]:
    """Return a tool call as the neutral message has it."""
    return {"id": id, "name": name, "arguments": arguments}


def encode_reply(text: str, calls: Sequence[dict[str, str]], blocks: Sequence[Block] | None) -> bytes:
    """Return a reply as a fragment; `blocks` are all its blocks, None if text and calls say it all."""
    message: Message = {"role": "assistant", "content": text}
    if calls:
        message["tool_calls"] = calls
    if blocks is not None:
        message["blocks"] = blocks
    return encode_fragment(message)


def to_usage(tokens: Tokens | None) -> Usage | None:
    """Return the usage a reply states; None if it states none."""
    if tokens is None:
        return None
    return Usage(
        tokens.input_tokens or 0,
        tokens.output_tokens or 0,
        tokens.cache_read_input_tokens or 0,
        tokens.cache_creation_input_tokens or 0,
    )
