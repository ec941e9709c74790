"""Neutral messages to chat completions (OpenAI's and compatible servers') and back.

The arguments of a tool call are text on both sides and go through untouched. What a model thinks is told to whoever
looks, but not kept: the servers do not take it back. Nor do they take the thinking blocks of other providers' replies.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Literal

import msgspec

from avm.errors import BadOutput
from avm.io.limits import RateLimits
from avm.io.providers.provider import Delta, OnEvent, Started
from avm.io.request import Completion, Message, ModelRequest, Usage, encode_fragment

STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
"""The Messages API's word for each of theirs; others stay as they are."""

DONE = b"[DONE]"


def to_chat(request: ModelRequest, *, max_tokens: str = "max_tokens", stream: bool = False) -> bytes:
    """Return the body of a request.

    Args:
        max_tokens: what the server calls the limit of a reply.
        stream: ask for events, with the usage in the last one.
    """
    body: dict[str, Any] = dict(_parameters(request.params))
    body["model"] = request.model
    body["messages"] = list(_messages(request))
    _limit(body, max_tokens, request.max_tokens)
    tools = _tools(request.tools) if request.tools else None
    if tools:
        body["tools"] = tools
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return encode_fragment(body)


# Under one name: servers refuse both. The API's own is translated, theirs was given for a server that wants it.
def _limit(body: dict[str, Any], name: str, tokens: int) -> None:
    given = body.pop("max_tokens", tokens)
    if "max_completion_tokens" not in body:
        body[name] = given


def _messages(request: ModelRequest) -> Iterator[Message]:
    if request.system:
        yield {"role": "system", "content": request.system}
    for message in request.history():
        if message["role"] == "tool":
            call = message.get("tool_call_id", "")
            yield {"role": "tool", "tool_call_id": call, "content": message["content"]}
            continue
        plain: Message = {"role": message["role"], "content": message["content"]}
        calls = message.get("tool_calls")
        if calls:
            plain["content"] = plain["content"] or None
            plain["tool_calls"] = [_call(call) for call in calls]
        yield plain


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = {"name": call["name"], "arguments": call["arguments"]}
    return {"id": call["id"], "type": "function", "function": function}


@lru_cache(maxsize=64)
def _tools(tools: bytes) -> list[dict[str, Any]]:
    return [_tool(tool) for tool in msgspec.json.decode(tools)]


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    if "function" in tool:
        return tool
    function: dict[str, Any] = {
        name: tool[name] for name in ("name", "description", "strict") if name in tool
    }
    schema = tool.get("input_schema", tool.get("parameters"))
    if schema is not None:
        function["parameters"] = schema
    return {"type": "function", "function": function}


# Parameters are the Messages API's. Those that only have other names here are translated, all others go as they are.
@lru_cache(maxsize=64)
def _parameters(params: bytes) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(params) if params else {}
    if isinstance(found.get("tool_choice"), dict):
        found["tool_choice"] = _choice(found["tool_choice"])
    if "stop_sequences" in found:
        found["stop"] = found.pop("stop_sequences")
    # Whether it streams is known when the call is made.
    for name in ("stream", "stream_options"):
        found.pop(name, None)
    return found


def _choice(choice: dict[str, Any]) -> object:
    kind = choice.get("type")
    if kind == "tool":
        return {"type": "function", "function": {"name": choice.get("name", "")}}
    names: dict[object, str] = {"auto": "auto", "any": "required", "none": "none"}
    return names.get(kind, choice)


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    function: _Function = msgspec.field(default_factory=_Function)
    id: str | None = None
    index: int | None = None


class _Said(msgspec.Struct):
    content: str | None = None
    tool_calls: list[_Call] | None = None
    refusal: str | None = None
    # Two names are in use for what a model thinks.
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    message: _Said = msgspec.field(default_factory=_Said)
    delta: _Said = msgspec.field(default_factory=_Said)
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Tokens(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Reply(msgspec.Struct):
    choices: list[_Choice]
    id: str = ""
    model: str = ""
    usage: _Tokens | None = None


_reply = msgspec.json.Decoder(_Reply)


class ChatReply:
    """One reply, whole or as it comes; events go to whoever looks.

    Args:
        provider: named in the completion.
        request_id: as the headers say; else the reply's own id is taken.
        on_event: takes the events; None is nobody.
        limits: what the headers say of them, for `Started`.
    """

    def __init__(
        self,
        provider: str,
        request_id: str = "",
        on_event: OnEvent | None = None,
        *,
        limits: RateLimits | None = None,
    ) -> None:
        self._provider = provider
        self._request_id = request_id
        self._on_event = on_event
        self._limits = limits
        self._started = False
        self._text: list[str] = []
        self._calls: dict[int, tuple[list[str], list[str], list[str]]] = {}
        self._blocks: dict[object, int] = {}
        self._id = self._model = ""
        self._finish: str | None = None
        self._refused = False
        self._tokens: _Tokens | None = None

    def take(self, body: bytes) -> None:
        """Take the body of a whole reply.

        Raises:
            msgspec.DecodeError: it is not JSON, or not such a reply; says where.
        """
        reply = _reply.decode(body)
        if not reply.choices:
            raise msgspec.ValidationError("`choices` is empty")
        self._add(reply, reply.choices[0].message)
        self._finish = self._finish or "stop"

    def feed(self, event: bytes) -> None:
        """Take the data of one event of a stream. Errors as `take`."""
        if event == DONE:
            return
        chunk = _reply.decode(event)
        # The last event has the usage and no choice.
        self._add(chunk, chunk.choices[0].delta if chunk.choices else _Said())

    @property
    def is_complete(self) -> bool:
        """Tell whether the model has come to an end."""
        return self._finish is not None

    @property
    def is_refusal(self) -> bool:
        """Tell whether the model, or the filter before it, refused."""
        return self._refused or self._finish == "content_filter"

    def completion(self) -> Completion:
        """Return the reply as far as it has come."""
        message: Message = {"role": "assistant", "content": "".join(self._text)}
        calls = [self._tool_call(number) for number in sorted(self._calls)]
        if calls:
            message["tool_calls"] = calls
        stop = self._finish or "stop"
        # Some servers say "stop" also where tools are wanted.
        reason = "tool_use" if calls and stop == "stop" else STOP_REASONS.get(stop, stop)
        return Completion(
            fragment=encode_fragment(message),
            stop_reason=reason,
            model=self._model,
            usage=_usage(self._tokens),
            provider=self._provider,
            request_id=self._request_id or self._id,
        )

    def _add(self, reply: _Reply, said: _Said) -> None:
        self._id = self._id or reply.id
        self._model = reply.model or self._model
        self._tokens = reply.usage or self._tokens
        if not self._started:
            self._started = True
            if self._on_event is not None:
                self._on_event(Started(self._request_id or self._id, self._limits))
        thought = said.reasoning_content or said.reasoning
        if thought:
            self._tell(thought, "thinking", "thinking")
        if said.content:
            self._text.append(said.content)
            self._tell(said.content, "text", "text")
        for place, call in enumerate(said.tool_calls or ()):
            self._add_call(place if call.index is None else call.index, call)
        self._refused = self._refused or bool(said.refusal)
        if reply.choices and reply.choices[0].finish_reason:
            self._finish = reply.choices[0].finish_reason

    def _add_call(self, number: int, call: _Call) -> None:
        parts = self._calls.setdefault(number, ([], [], []))
        for part, piece in zip(parts, (call.id, call.function.name, call.function.arguments), strict=True):
            if piece:
                part.append(piece)
        if call.function.arguments:
            self._tell(call.function.arguments, "tool", number)

    def _tool_call(self, number: int) -> dict[str, str]:
        id, name, arguments = ("".join(part) for part in self._calls[number])
        if not name:
            raise BadOutput(f"tool call {number} of the reply has no name.", self._provider, self._model)
        # Some servers give none, but results are matched by it.
        return {"id": id or f"{self._id or 'call'}-{number}", "name": name, "arguments": arguments}

    def _tell(self, text: str, kind: Literal["text", "thinking", "tool"], block: object) -> None:
        if self._on_event is not None:
            self._on_event(Delta(text, kind, self._blocks.setdefault(block, len(self._blocks))))


def _usage(tokens: _Tokens | None) -> Usage | None:
    if tokens is None:
        return None
    details = tokens.prompt_tokens_details
    cached = (details.cached_tokens or 0) if details is not None else 0
    # What was read from the cache is a part of the prompt here. It costs less, so it is told apart; a limit of tokens a
    # minute counts it in full all the same, and is corrected by the headers.
    return Usage(max(0, tokens.prompt_tokens - cached), tokens.completion_tokens, cached)
