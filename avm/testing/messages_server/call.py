"""A request to the Messages API as the server sees it.

The body is decoded no further than needed: system, tools and each turn's content stay bytes until somebody looks. What
the prompt cache and the checks want to know of their blocks is kept by the digest of those bytes, so a prompt of 67 KB
that comes a thousand times is taken apart once.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal

import attrs
import msgspec
from blake3 import blake3

from avm.testing.messages_server.cache import HOUR, MINUTES, Prefixes
from avm.testing.messages_server.connection import HTTPRequest

CHARACTERS_PER_TOKEN = 3.5
IMAGE_CHARACTERS = 5_600
"""An image or a document counts as 1,600 tokens, whatever its bytes."""

BINARY = frozenset({"image", "document"})


class Mark(msgspec.Struct):
    """The `cache_control` of a block, or of the whole request."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] = "5m"

    @property
    def seconds(self) -> float:
        """How long an entry lives after each use."""
        return HOUR if self.ttl == "1h" else MINUTES


class Turn(msgspec.Struct):
    """One message; its content is text or an array of blocks, in JSON."""

    role: str
    content: msgspec.Raw


_NOTHING = msgspec.Raw(b"")


class Prompt(msgspec.Struct):
    """The body of a request to count tokens, and what all bodies have."""

    model: str
    messages: list[Turn]
    system: msgspec.Raw = _NOTHING
    tools: msgspec.Raw = _NOTHING
    thinking: msgspec.Raw = _NOTHING
    tool_choice: msgspec.Raw = _NOTHING
    cache_control: Mark | None = None


class Body(Prompt, kw_only=True):
    """The body of a request for a message."""

    max_tokens: int
    stream: bool = False
    stop_sequences: list[str] | None = None


@attrs.frozen(slots=True)
class Part:
    """One block of a prompt: a digest of it without its mark, its characters, the seconds of its mark (0: none).

    `kind` is its type, `id` of a tool_use its own and of a tool_result that of the call.
    """

    key: bytes
    characters: int
    seconds: float = 0.0
    kind: str = "text"
    id: str = ""


@attrs.frozen(slots=True)
class Section:
    """The tools, the system prompt, or the content of one turn, taken apart. `key` is the digest of its bytes."""

    key: bytes
    parts: tuple[Part, ...]
    characters: int
    marks: tuple[float, ...]
    """Seconds of its marks, in order."""
    calls: tuple[str, ...]
    """Ids of its tool_use blocks."""
    answers: tuple[str, ...]
    """Ids its tool_result blocks answer."""

    @classmethod
    def of(cls, key: bytes, parts: tuple[Part, ...]) -> Section:
        """Put together what is wanted of parts."""
        return cls(
            key,
            parts,
            sum(part.characters for part in parts),
            tuple(part.seconds for part in parts if part.seconds),
            tuple(part.id for part in parts if part.kind == "tool_use"),
            tuple(part.id for part in parts if part.kind == "tool_result"),
        )


EMPTY = Section.of(b"", ())


class Call:
    """One request for a message: what tests look at, and functions that reply or decide on faults.

    `number` counts the requests to the server from 1. Values are decoded at the first look.
    """

    def __init__(self, raw: bytes, body: Prompt, number: int = 0, request: HTTPRequest | None = None) -> None:
        self.raw = raw
        self.number = number
        self.sections: Sections | None = None
        self._body = body
        self._request = request

    def __repr__(self) -> str:
        # Headers hold the key.
        return f"Call({self.number}, model={self.model!r}, {len(self._body.messages)} messages)"

    @property
    def headers(self) -> dict[str, str]:
        """The headers it came with, the key among them; names are in lower case. Those of a batch have none."""
        return self._request.headers if self._request is not None else {}

    @property
    def model(self) -> str:
        """The model that is asked."""
        return self._body.model

    @property
    def max_tokens(self) -> int:
        """The most tokens of the reply."""
        return self._body.max_tokens if isinstance(self._body, Body) else 0

    @property
    def stream(self) -> bool:
        """Whether the reply is to come as events."""
        return isinstance(self._body, Body) and self._body.stream

    @property
    def stop_sequences(self) -> list[str]:
        """Texts that end the reply."""
        return (self._body.stop_sequences or []) if isinstance(self._body, Body) else []

    @cached_property
    def body(self) -> dict[str, Any]:
        """All of it, as plain JSON."""
        decoded: dict[str, Any] = msgspec.json.decode(self.raw)
        return decoded

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The messages as they came."""
        found: list[dict[str, Any]] = self.body["messages"]
        return found

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tools as they came."""
        return self.body.get("tools") or []

    @cached_property
    def system(self) -> str:
        """The system prompt as text."""
        return _text(msgspec.json.decode(self._body.system)) if self._body.system else ""

    @cached_property
    def last(self) -> list[dict[str, Any]]:
        """The blocks of the last message."""
        content = msgspec.json.decode(self._body.messages[-1].content)
        return [{"type": "text", "text": content}] if isinstance(content, str) else content

    @property
    def text(self) -> str:
        """The text of the last message."""
        return _text(self.last)


@attrs.frozen(slots=True)
class Sections:
    """A prompt taken apart: its sections in the order of the cache, each with the place it is in (tools, system, or
    the role of a turn)."""

    placed: tuple[tuple[bytes, Section], ...]
    characters: int

    @property
    def tokens(self) -> int:
        """Input tokens of all of it."""
        return tokens_of(self.characters)

    @property
    def marks(self) -> list[float]:
        """The seconds of all marks, in order."""
        return [seconds for _, section in self.placed for seconds in section.marks]


class Chains:
    """Makes the chains of prefixes of prompts; remembers the links it has made.

    A link is keyed by the prefix before it, so it says everything of the prompt up to its end.
    """

    def __init__(self) -> None:
        self._links: dict[tuple[bytes, bytes, bytes], _Link] = {}

    def prefixes(self, sections: Sections, body: Prompt) -> Prefixes | None:
        """Return the prefixes of a prompt; None if nothing in it is marked."""
        if body.cache_control is None and not any(section.marks for _, section in sections.placed):
            return None
        keys: list[bytes] = []
        tokens: list[int] = []
        marks: dict[int, float] = {}
        link = _Link((), (), (), blake3(body.model.encode()).digest(), 0)
        for number, (place, section) in enumerate(sections.placed):
            if number == TURNS:
                # These change what comes after them only.
                link = link.turned(b"%s %s" % (body.tool_choice, body.thinking))
            link = self._follow(link, place, section)
            marks.update((len(keys) + block, seconds) for block, seconds in link.marks)
            keys.extend(link.keys)
            tokens.extend(link.tokens)
        if body.cache_control is not None and keys:
            marks[len(keys) - 1] = body.cache_control.seconds
        return Prefixes(keys, tokens, sorted(marks.items()))

    def _follow(self, link: _Link, place: bytes, section: Section) -> _Link:
        if not section.parts:
            return attrs.evolve(link, keys=(), tokens=(), marks=())
        name = (link.end, place, section.key)
        found = self._links.get(name)
        if found is None:
            if len(self._links) >= MAX_LINKS:
                self._links.clear()
            found = self._links[name] = link.followed(place, section.parts)
        return found


TURNS = 2
"""Where turns begin among the sections: tools and system come first."""

MAX_LINKS = 20_000


@attrs.frozen(slots=True)
class _Link:
    keys: tuple[bytes, ...]
    tokens: tuple[int, ...]
    marks: tuple[tuple[int, float], ...]
    end: bytes
    characters: int

    def turned(self, by: bytes) -> _Link:
        return _Link((), (), (), blake3(self.end + by).digest(), self.characters)

    def followed(self, place: bytes, parts: tuple[Part, ...]) -> _Link:
        keys, tokens = [], []
        end, characters = self.end, self.characters
        for part in parts:
            end = blake3(end + place + part.key).digest()
            characters += part.characters
            keys.append(end)
            tokens.append(tokens_of(characters))
        marks = tuple((block, part.seconds) for block, part in enumerate(parts) if part.seconds)
        return _Link(tuple(keys), tuple(tokens), marks, end, characters)


def tokens_of(characters: int) -> int:
    """Return the tokens that a number of characters is counted as."""
    return round(characters / CHARACTERS_PER_TOKEN)


def part_of(block: dict[str, Any]) -> Part:
    """Return what the cache and the checks want to know of a decoded, valid block or tool."""
    mark = block.get("cache_control")
    seconds = 0.0 if mark is None else msgspec.convert(mark, Mark).seconds
    kind = block.get("type", "")
    text = block.get("text")
    if kind == "text" and isinstance(text, str):
        return Part(blake3(b"text" + _utf8(text)).digest(), len(text), seconds)
    plain = {name: value for name, value in block.items() if name != "cache_control"}
    rendered = msgspec.json.encode(plain)
    characters = IMAGE_CHARACTERS if kind in BINARY else _length(block, rendered)
    id = str(block.get("id" if kind == "tool_use" else "tool_use_id", ""))
    return Part(blake3(rendered).digest(), characters, seconds, kind, id)


def _length(block: dict[str, Any], rendered: bytes) -> int:
    if block.get("type") == "tool_result":
        return sum(
            IMAGE_CHARACTERS if each.get("type") in BINARY else len(each.get("text", ""))
            for each in blocks_of(block.get("content") or "")
        )
    return len(rendered.decode())


def blocks_of(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return content as blocks."""
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _text(content: str | list[dict[str, Any]]) -> str:
    return "".join(block.get("text", "") for block in blocks_of(content))


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
