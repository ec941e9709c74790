"""What the Messages API refuses, in its words.

A request is decoded and checked here, field by field; the first that is wrong is the answer. Sections that were found
right are remembered by the digest of their bytes, so what comes again and again is looked at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

import attrs
import msgspec
from blake3 import blake3

from avm.testing.messages_server.call import (
    EMPTY,
    TURNS,
    Body,
    Call,
    Prompt,
    Section,
    Sections,
    Turn,
    part_of,
)
from avm.testing.messages_server.connection import HTTPRequest
from avm.testing.messages_server.problem import ProblemError, invalid

MAX_MARKS = 4
MAX_KNOWN = 20_000
"""Sections that are remembered; then all are forgotten."""

TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")

_body = msgspec.json.Decoder(Body)
_prompt = msgspec.json.Decoder(Prompt)

_EXPECTED = {
    "int": "a valid integer",
    "str": "a valid string",
    "bool": "a valid boolean",
    "array": "a valid list",
    "object": "a valid dictionary",
}


@attrs.frozen(slots=True)
class ModelRules:
    """What a server takes; None is anything."""

    models: Collection[str] | None = None
    context: int | None = None
    """Tokens of the longest prompt, and of prompt and reply together."""
    max_output_tokens: int | None = None


class Checks:
    """Decodes requests and refuses those that are wrong."""

    def __init__(self, rules: ModelRules) -> None:
        self._rules = rules
        self._known: dict[bytes, Section] = {}

    def call(self, raw: bytes, number: int, request: HTTPRequest | None) -> tuple[Call, Body]:
        """Return the request for a message.

        Raises:
            ProblemError: what is wrong with it.
        """
        body: Body = _decode(_body, raw)
        call = Call(raw, body, number, request)
        self._check_model(body)
        self._check_output(body)
        call.sections = self._sections(body)
        self._check_length(call.sections)
        return call, body

    def count(self, raw: bytes) -> int:
        """Return the input tokens of a request; errors as `call`."""
        body: Prompt = _decode(_prompt, raw)
        self._check_model(body)
        return self._sections(body).tokens

    def _check_model(self, body: Prompt) -> None:
        if self._rules.models is not None and body.model not in self._rules.models:
            raise ProblemError("not_found_error", f"model: {body.model}")

    def _check_output(self, body: Body) -> None:
        if body.max_tokens < 0:
            raise invalid("max_tokens: Input should be greater than or equal to 0")
        if body.max_tokens == 0 and body.stream:
            raise invalid("max_tokens: 0 cannot be combined with stream")
        most = self._rules.max_output_tokens
        if most is not None and body.max_tokens > most:
            raise invalid(
                f"max_tokens: {body.max_tokens} > {most}, which is the maximum allowed number of output tokens for "
                f"{body.model}"
            )

    def _check_length(self, sections: Sections) -> None:
        most = self._rules.context
        if most is not None and sections.tokens > most:
            raise invalid(f"prompt is too long: {sections.tokens} tokens > {most} maximum")

    def _sections(self, body: Prompt) -> Sections:
        if not body.messages:
            raise invalid("messages: at least one message is required")
        placed = [
            (b"tools", self._remember(b"tools", body.tools, _read_tools)),
            (b"system", self._remember(b"system", body.system, _read_system)),
        ]
        for place, turn in enumerate(body.messages):
            placed.append((turn.role.encode(), self._turn(turn, place, place == len(body.messages) - 1)))
        if body.messages[0].role != "user":
            raise invalid('messages: first message must use the "user" role')
        _check_results(placed[TURNS:])
        sections = Sections(tuple(placed), sum([section.characters for _, section in placed]))
        _check_marks(sections.marks, body)
        return sections

    def _turn(self, turn: Turn, place: int, last: bool) -> Section:
        if turn.role not in ("user", "assistant"):
            raise invalid(_wrong_role(turn.role))
        section = self._remember(
            b"content", turn.content, lambda content: _read_content(content, f"messages.{place}")
        )
        # An empty one is a prefill that says nothing.
        if not section.parts and not (turn.role == "assistant" and last):
            raise invalid(
                f"messages.{place}: all messages must have non-empty content except for the optional final assistant "
                "message"
            )
        return section

    def _remember(
        self, kind: bytes, raw: msgspec.Raw, read: Callable[[Any], list[dict[str, Any]]]
    ) -> Section:
        if not raw:
            return EMPTY
        digest = blake3(raw).digest() + kind
        section = self._known.get(digest)
        if section is None:
            section = Section.of(digest, tuple([part_of(block) for block in read(msgspec.json.decode(raw))]))
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            self._known[digest] = section
        return section


def _decode(decoder: Any, raw: bytes) -> Any:
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        raise invalid(_translate(str(error))) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(f"The request body is not valid JSON: {error}") from None


# "Expected `int`, got `str` - at `$.messages[0].role`" as the API says it: "messages.0.role: Input should be ...".
def _translate(text: str) -> str:
    what, _, at = text.partition(" - at ")
    path = re.sub(r"\[(\d+)\]", r".\1", at.strip("`")).lstrip("$").lstrip(".")
    missing = re.fullmatch(r"Object missing required field `(\w+)`", what)
    if missing is not None:
        return f"{path}.{missing[1]}: Field required".lstrip(".")
    expected = re.match(r"Expected `(\w+)", what)
    said = _EXPECTED.get(expected[1]) if expected is not None else None
    return f"{path}: {f'Input should be {said}' if said else what}".removeprefix(": ")


def _wrong_role(role: str) -> str:
    if role == "system":
        return (
            'messages: Unexpected role "system". The Messages API accepts a top-level `system` parameter, not "system" '
            "as an input message role."
        )
    return f'messages: Unexpected role "{role}". Allowed roles are "user" or "assistant"'


def _read_tools(tools: Any) -> list[dict[str, Any]]:
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise invalid("tools: Input should be a valid list")
    for place, tool in enumerate(tools):
        _check_tool(tool, f"tools.{place}")
    names = [tool["name"] for tool in tools]
    if len(set(names)) != len(names):
        raise invalid("tools: Tool names must be unique.")
    return tools


def _check_tool(tool: Any, where: str) -> None:
    if not isinstance(tool, dict):
        raise invalid(f"{where}: Input should be a valid dictionary")
    if not isinstance(tool.get("name"), str):
        raise invalid(f"{where}.custom.name: Field required")
    if TOOL_NAME.fullmatch(tool["name"]) is None:
        raise invalid(f"{where}.custom.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
    _check_mark(tool, where)
    if tool.get("type", "custom") != "custom":
        return
    schema = tool.get("input_schema")
    if not isinstance(schema, dict):
        raise invalid(f"{where}.custom.input_schema: {_missing(schema, 'a valid dictionary')}")
    if schema.get("type") != "object":
        raise invalid(f"{where}.custom.input_schema.type: {_missing(schema.get('type'), repr('object'))}")
    if not isinstance(schema.get("properties", {}), dict) or not isinstance(schema.get("required", []), list):
        raise invalid(
            f"{where}.custom.input_schema: JSON schema is invalid. It must match JSON Schema draft 2020-12"
        )


def _read_system(system: Any) -> list[dict[str, Any]]:
    if system is None or system == "":
        return []
    blocks = [{"type": "text", "text": system}] if isinstance(system, str) else system
    if not isinstance(blocks, list):
        raise invalid("system: Input should be a valid list")
    for place, block in enumerate(blocks):
        if not isinstance(block, dict) or block.get("type") != "text":
            raise invalid(f"system.{place}.type: Input should be 'text'")
        _check_block(block, f"system.{place}", "system")
    return blocks


def _read_content(content: Any, where: str) -> list[dict[str, Any]]:
    if isinstance(content, str):
        if content and not content.strip():
            raise invalid("messages: text content blocks must contain non-whitespace text")
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list):
        raise invalid(f"{where}.content: Input should be a valid list")
    for place, block in enumerate(content):
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise invalid(f"{where}.content.{place}.type: Field required")
        _check_block(block, f"{where}.content.{place}", "messages")
    return content


def _check_block(block: dict[str, Any], where: str, field: str) -> None:
    kind = block["type"]
    _check_mark(block, f"{where}.{kind}")
    if kind == "text":
        text = block.get("text")
        if not isinstance(text, str):
            raise invalid(f"{where}.text.text: {_missing(text, 'a valid string')}")
        if not text and block.get("cache_control") is not None:
            raise invalid(f"{where}.text: cache_control cannot be set for empty text blocks")
        if not text:
            raise invalid(f"{field}: text content blocks must be non-empty")
        if not text.strip():
            raise invalid(f"{field}: text content blocks must contain non-whitespace text")
    elif kind == "tool_use":
        for name in ("id", "name"):
            if not isinstance(block.get(name), str):
                raise invalid(f"{where}.tool_use.{name}: {_missing(block.get(name), 'a valid string')}")
        if not isinstance(block.get("input"), dict):
            raise invalid(f"{where}.tool_use.input: {_missing(block.get('input'), 'a valid dictionary')}")
    elif kind == "tool_result" and not isinstance(block.get("tool_use_id"), str):
        raise invalid(f"{where}.tool_result.tool_use_id: Field required")


def _check_mark(block: dict[str, Any], where: str) -> None:
    mark = block.get("cache_control")
    if mark is None:
        return
    if not isinstance(mark, dict) or mark.get("type") != "ephemeral":
        raise invalid(f"{where}.cache_control.type: Input should be 'ephemeral'")
    if mark.get("ttl", "5m") not in ("5m", "1h"):
        raise invalid(f"{where}.cache_control.ephemeral.ttl: Input should be '5m' or '1h'")


def _missing(found: object, expected: str) -> str:
    return "Field required" if found is None else f"Input should be {expected}"


def _check_results(turns: Sequence[tuple[bytes, Section]]) -> None:
    called: tuple[str, ...] = ()
    for place, (role, section) in enumerate(turns):
        answered = section.answers
        if not called and not answered:
            called = section.calls if role == b"assistant" else ()
            continue
        strangers = [id for id in answered if id not in called]
        if strangers:
            raise invalid(
                f"messages.{place}.content: unexpected `tool_use_id` found in `tool_result` blocks: {strangers[0]}. "
                "Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
            )
        waiting = [id for id in called if id not in answered]
        if waiting:
            raise invalid(
                f"messages.{place - 1}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{', '.join(waiting)}. Each `tool_use` block must have a corresponding `tool_result` block in the "
                "next message."
            )
        called = section.calls if role == b"assistant" else ()


def _check_marks(marks: list[float], body: Prompt) -> None:
    if body.cache_control is not None:
        marks = [*marks, body.cache_control.seconds]
    if len(marks) > MAX_MARKS:
        raise invalid(
            f"A maximum of {MAX_MARKS} blocks with cache_control may be provided. Found {len(marks)}."
        )
    if marks != sorted(marks, reverse=True):
        raise invalid("a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block.")
