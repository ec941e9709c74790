"""Small recorded conversations, and files of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import zstandard

from avm.io import Recordings


def record(id: str, turns: int = 2) -> dict[str, Any]:
    """Make one conversation: in each turn the model calls a tool, reads its result and answers."""
    messages: list[dict[str, Any]] = []
    for turn in range(turns):
        call = {"id": f"c{turn}", "name": "look", "arguments": '{"at":  "it"}'}
        messages += [
            {"role": "user", "content": f"{id}: question {turn} \u2028"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"c{turn}", "name": "look", "content": f"seen {turn}"},
            {"role": "assistant", "content": f"answer {turn}"},
        ]
    return {
        "id": id,
        "source": "here",
        "licence": "MIT",
        "model": "gpt-4",
        "system": "Be brief.",
        "tools": [{"type": "function", "function": {"name": "look"}}],
        "messages": messages,
        "meta": {"n": 1},
    }


def records(count: int, turns: int = 2) -> list[dict[str, Any]]:
    """Make some conversations."""
    return [record(f"talk-{n}", turns) for n in range(count)]


def recordings(count: int, turns: int = 2) -> Recordings:
    """Make some conversations, ready to be played."""
    return Recordings(records(count, turns))


def lines_of(found: Iterable[dict[str, Any]]) -> bytes:
    """Return conversations as the lines of a file."""
    return b"".join(json.dumps(r, ensure_ascii=False).encode() + b"\n" for r in found)


def write_file(path: Path, content: bytes) -> Path:
    """Write a compressed file."""
    path.write_bytes(zstandard.compress(content))
    return path


def read_file(path: Path) -> bytes:
    """Read a compressed file."""
    return zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read()
