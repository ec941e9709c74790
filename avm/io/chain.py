"""Chain: the prefixes of a prompt that others may have too, named by digests.

    (model, tools, system)   page 1   page 2   ...   message with a large body   ...   conversation | further messages
     key 0 ───────────────────► key 1 ──► key 2 ────────► key 3 ────────────────────────► key 4

A provider's cache is read by prefix, so each key is a digest of the key before it and of what follows. Nothing is read
for it but digests that are known already, except of a tail that holds large bodies: those are where agents given one
document part from each other. Where `Prompt.messages` says so, a cache breakpoint makes a link readable.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import attrs
from blake3 import blake3

from avm.io.prefix import Link
from avm.io.providers.provider import CHARACTERS_PER_TOKEN
from avm.io.request import ModelRequest
from avm.memory.conversation import Piece
from avm.memory.fragment import BODY, JOINT

NO_TOOLS = (b"", b"[]")


@attrs.frozen(slots=True)
class Prompt:
    """The prefixes of a request's prompt, shortest first."""

    chain: tuple[Link, ...]
    messages: tuple[int, ...]
    """How many messages each link covers; the first covers none if there are system prompt or tools."""


def chain_of(request: ModelRequest) -> Prompt:
    """Return the chain of a request: after tools and system prompt, each page, each message of the tail with a large
    body, and the conversation if messages follow it. What is not there has no link.

    Raises:
        CorruptBlob, ColdStoreError: the conversation is on disk and cannot be read.
    """
    key, size = _begin(request.model, request.tools, request.system)
    links: list[Link] = []
    counts: list[int] = []
    if size:
        links.append(Link(key, _tokens(size)))
        counts.append(0)
    history = request.conversation
    if history is None:
        return Prompt(tuple(links), tuple(counts))
    for piece in history.pieces():
        page = piece.key
        if page is not None:
            key = blake3(key + page).digest()
            size += piece.size
            links.append(Link(key, _tokens(size)))
            counts.append(piece.first + piece.count)
            continue
        if piece.blobs:
            for found, more, count in _tail(key, piece):
                key = found
                links.append(Link(key, _tokens(size + more)))
                counts.append(piece.first + count)
        size += piece.size
    length = len(history)
    if request.messages and length and (not counts or counts[-1] != length):
        links.append(Link(blake3(key + history.root.bytes).digest(), _tokens(size)))
        counts.append(length)
    return Prompt(tuple(links), tuple(counts))


# Agents of one class have one prompt, and it is large: it is looked at once.
@lru_cache(maxsize=256)
def _begin(model: str, tools: bytes, system: str) -> tuple[bytes, int]:
    """Return the digest of the prompt's beginning, and its bytes: 0 if there is neither tool nor system prompt."""
    hasher = blake3(b"avm prompt\0")
    tools = b"" if tools in NO_TOOLS else tools
    text = system.encode("utf-8", "surrogatepass")
    for part in (model.encode("utf-8", "surrogatepass"), tools, text):
        hasher.update(len(part).to_bytes(8, "big"))
        hasher.update(part)
    return hasher.digest(), len(tools) + len(text)


def _tail(key: bytes, piece: Piece) -> Iterator[tuple[bytes, int, int]]:
    """Go through the messages of a tail that hold bodies: the key after each, raw bytes and messages up to there."""
    run = piece.run()
    hasher = blake3(key)
    begin = blobs = count = extra = 0
    at = run.find(BODY)
    while at >= 0:
        end = run.find(JOINT, at)
        if end < 0:
            end = len(run)
        bodies = piece.blobs[blobs : blobs + run.count(BODY, begin, end)]
        hasher.update(run[begin:end])
        hasher.update(b"".join([blob.key for blob in bodies]))
        extra += sum([blob.size - 1 for blob in bodies])
        count += run.count(JOINT, begin, end) + (1 if begin == 0 else 0)
        yield hasher.digest(), end - len(JOINT) * (count - 1) + extra, count
        blobs += len(bodies)
        begin = end
        at = run.find(BODY, end)


def _tokens(size: int) -> int:
    return int(size / CHARACTERS_PER_TOKEN)
