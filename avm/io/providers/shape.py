"""Neutral messages to the Messages API and back.

The API wants turns to alternate and all results of one step in one user message, so neighbours of one role are joined.
Empty text is left out, since the API refuses it. What a model may say besides text and tool calls (thinking with its
signature, say) is kept under "blocks" of the neutral message and goes back as it came.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from avm.io.request import Completion, Message, Usage, encode_fragment


def to_turns(messages: Iterable[Message]) -> list[dict[str, Any]]:
    """Return the `messages` of an API request."""
    turns: list[dict[str, Any]] = []
    for message in messages:
        blocks = _blocks(message)
        if not blocks:
            continue
        role = "assistant" if message["role"] == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"].extend(blocks)
        else:
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(message: Message) -> list[dict[str, Any]]:
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
    blocks: list[dict[str, Any]] = []
    if message["content"].strip():
        blocks.append({"type": "text", "text": message["content"]})
    for call in message.get("tool_calls") or ():
        blocks.append(
            {"type": "tool_use", "id": call["id"], "name": call["name"], "input": _input(call["arguments"])}
        )
    return blocks


# The API takes an object only; what a model wrote otherwise (shell text, broken JSON) is shown to it under one key.
def _input(arguments: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(arguments) if arguments.strip() else {}
    except msgspec.DecodeError:
        found = None
    return found if isinstance(found, dict) else {"arguments": arguments}


class _Block(msgspec.Struct):
    type: str
    text: str = ""
    id: str = ""
    name: str = ""
    # As the model wrote it: the neutral message keeps this text, not what it means.
    input: msgspec.Raw = msgspec.Raw(b"{}")


class _Tokens(msgspec.Struct):
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int | None = 0
    cache_creation_input_tokens: int | None = 0


class _Reply(msgspec.Struct):
    content: list[msgspec.Raw]
    model: str = ""
    stop_reason: str | None = None
    usage: _Tokens | None = None


_reply = msgspec.json.Decoder(_Reply)
_block = msgspec.json.Decoder(_Block)


def from_reply(body: bytes, provider: str, request_id: str) -> Completion:
    """Read the body of an API response.

    Raises:
        msgspec.DecodeError: it is not JSON, or not such a response; says where.
    """
    reply = _reply.decode(body)
    blocks = [_block.decode(raw) for raw in reply.content]
    message: Message = {"role": "assistant", "content": "".join(b.text for b in blocks if b.type == "text")}
    calls = [
        {"id": b.id, "name": b.name, "arguments": bytes(b.input).decode()}
        for b in blocks
        if b.type == "tool_use"
    ]
    if calls:
        message["tool_calls"] = calls
    if any(b.type not in ("text", "tool_use") for b in blocks):
        message["blocks"] = [msgspec.json.decode(raw) for raw in reply.content]
    return Completion(
        fragment=encode_fragment(message),
        stop_reason=reply.stop_reason or "end_turn",
        model=reply.model,
        usage=_usage(reply.usage),
        provider=provider,
        request_id=request_id,
    )


def _usage(tokens: _Tokens | None) -> Usage | None:
    if tokens is None:
        return None
    return Usage(
        tokens.input_tokens,
        tokens.output_tokens,
        tokens.cache_read_input_tokens or 0,
        tokens.cache_creation_input_tokens or 0,
    )
