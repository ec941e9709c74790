"""Histories: the real conversations that the memory of agents is measured with, and what is put together from them.

All of it is the same in every run: what is chosen is chosen with a fixed seed. KB and MB are 1,000 and 1,000,000 bytes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from avm.memory import Message, read_conversations

SOURCES = ("tau_airline", "swe_agent_java", "mint", "intercode")
SEED = 20


@attrs.frozen(slots=True, eq=False)
class History:
    """What one agent holds."""

    system: str
    tools: list[dict[str, Any]]
    messages: list[Message]

    def naive_bytes(self) -> int:
        """Return the bytes of prompt, tools and messages as compact JSON, with nothing shared."""
        return len(compact(self.system)) + len(compact(self.tools)) + len(compact(self.messages))

    def line(self) -> bytes:
        """Return it as a line of JSON, without the line's end; its texts may hold U+2028."""
        return compact({"system": self.system, "tools": self.tools, "messages": self.messages})

    def copy(self) -> History:
        """Return an equal history with strings of its own: what someone else holds too, no store can make smaller."""
        return History(**json.loads(self.line()))


@attrs.frozen(slots=True, eq=False)
class Histories:
    """All conversations of a folder, by source."""

    by_source: dict[str, list[History]]

    @classmethod
    def read(cls, folder: Path) -> Histories:
        """Read the four files of a folder.

        Raises:
            WorkloadError: one of them is not there, or damaged.
        """
        return cls({name: _read(folder / f"{name}.jsonl.zst") for name in SOURCES})

    def all(self) -> list[History]:
        """Return all conversations, source by source."""
        return [history for name in SOURCES for history in self.by_source[name]]

    def mix(self, n: int, *, shuffled: bool = True) -> list[History]:
        """Return n histories: all of tau and SWE-agent, the rest MINT and InterCode half and half.

        The same n histories whether shuffled or in the order of the files. If n is less than tau and SWE-agent have,
        all of it is a sample of these two.
        """
        chance = random.Random(SEED)
        tau, swe, mint, intercode = (self.by_source[name] for name in SOURCES)
        rest = n - len(tau) - len(swe)
        if rest < 0:
            chosen = _sample(chance, [*tau, *swe], n)
        else:
            chosen = [*tau, *swe, *_sample(chance, mint, rest - rest // 2)]
            chosen += _sample(chance, intercode, n - len(chosen))
        if shuffled:
            chance.shuffle(chosen)
        return chosen

    def middling(self, n: int) -> list[History]:
        """Return those of the mix of n that have 36 to 44 messages; all of them if none has."""
        mix = self.mix(n)
        return [history for history in mix if is_middling(history.messages)] or mix

    def long(self, count: int) -> list[Message]:
        """Return so many messages in a row."""
        found = [message for history in self.mix(900) for message in history.messages]
        return (found * (count // len(found) + 1))[:count]

    def fleet(self, n: int, size: int) -> list[History]:
        """Return n histories with one prefix of `size` bytes; every one with strings of its own."""
        system, tools = self.prefix(size)
        return [History(system, tools, history.messages) for history in self.mix(n)]

    def prefix(self, size: int) -> tuple[str, list[dict[str, Any]]]:
        """Return a system prompt and tools of `size` bytes in all: tau's, and SWE-agent's prompt and demonstration."""
        tau, swe = self.by_source["tau_airline"][0], self.by_source["swe_agent_java"][0]
        tools = tau.tools if len(compact(tau.tools)) < size // 2 else []
        text = "\n\n".join((tau.system, swe.system, swe.messages[0]["content"]))
        return _cut(text, size - (len(compact(tools)) if tools else 0)), tools

    def prompt(self, size: int) -> str:
        """Return a text of `size` bytes, all of them ASCII: a str of it takes no more."""
        text = "".join(text for text in self._texts() if text.isascii())
        return (text * (size // len(text) + 1))[:size]

    def pieces(self, size: int) -> Iterator[str]:
        """Go through all texts in pieces of `size` characters, without an end, and never the same piece twice.

        Whoever takes more than there is gets the same texts cut at other places.
        """
        text = "".join(self._texts())
        seen: set[int] = set()
        for start in range(0, size, 37):
            for at in range(start, len(text) - size + 1, size):
                piece = text[at : at + size]
                if hash(piece) not in seen:
                    seen.add(hash(piece))
                    yield piece
        raise AssertionError("more text was asked for than the histories have")

    def own(self, n: int, size: int, piece: int = 1000) -> Iterator[list[Message]]:
        """Go through n lists of messages of `size` characters each; no message comes twice."""
        pieces = self.pieces(piece)
        for _ in range(n):
            yield [
                {"role": ("user", "assistant")[number % 2], "content": next(pieces)}
                for number in range(max(size // piece, 1))
            ]

    # Every text once: SWE-agent's demonstration is in each of its conversations.
    def _texts(self) -> Iterator[str]:
        texts = [message["content"] for history in self.all() for message in history.messages]
        yield from dict.fromkeys(text for text in texts if not _has_surrogates(text))


def is_middling(messages: Sequence[Message]) -> bool:
    """Tell whether a conversation is of the middling length that sizes and times are given for."""
    return 36 <= len(messages) <= 44


def compact(value: object) -> bytes:
    """Return JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def _read(path: Path) -> list[History]:
    return [
        History(found.get("system", ""), found.get("tools", []), found["messages"])
        for found in read_conversations(path)
    ]


def _sample(chance: random.Random, histories: list[History], n: int) -> list[History]:
    """Choose n and leave them in their order."""
    chosen = sorted(chance.sample(range(len(histories)), min(n, len(histories))))
    return [histories[number] for number in chosen]


def _cut(text: str, size: int) -> str:
    return text.encode("utf-8", "ignore")[:size].decode("utf-8", "ignore")


def _has_surrogates(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text)
