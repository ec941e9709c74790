"""Wire: the body of a Messages API request, joined from pieces that are encoded once.

    {"model":..,"max_tokens":..     "system":..        "tools":..    "messages":[  page  page  tail  message  ]  params}
     small, made each time           by the text        as given       by digest   by what was added     as given

The history is never encoded again: a sealed page is known by its digest, whoever's conversation it is in, and an open
tail by itself; of that only what was added since the last time is looked at. Turns of two pieces that have the same
role become one by leaving out the brackets between them, and a cache breakpoint is put before the brace that closes a
block. What is encoded is kept up to a number of bytes; the piece unused for longest goes first, and a tail's goes with
its conversation.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable, Sequence
from functools import lru_cache
from typing import Any
from weakref import ref

import attrs
import msgspec

from avm.errors import InvalidRequest
from avm.io.providers.shape import BREAKPOINT, CLOSING, OPENING, Turns
from avm.io.request import Hints, ModelRequest
from avm.memory.conversation import Piece
from avm.memory.fragment import quote

MOST = 16 << 20
"""Bytes of encoded pieces a wire keeps."""

BREAKPOINTS = 4
"""How many cache breakpoints the API takes in one request."""

KEPT_MESSAGE = 1024
"""Bytes from which on a message outside of a conversation is kept: encoding a shorter one again costs less."""

FIVE_MINUTES = b',"cache_control":{"type":"ephemeral"}'
ONE_HOUR = b',"cache_control":{"type":"ephemeral","ttl":"1h"}'

OWN_MEMBERS = frozenset(("model", "max_tokens", "messages", "system", "tools", "stream"))
"""What the body has from the request itself, and `params` may not say again."""

NO_HINTS = Hints()

Parts = list[bytes | memoryview]
"""What a body is joined from."""

Key = Hashable
"""What a piece is kept under: a page's digest, a weak reference to a tail, a message's bytes, or prompt and mark."""

Stretch = tuple[Turns, int, int]
"""Encoded turns, how many of their messages are meant, and how many messages of the request are before them."""


@attrs.frozen(slots=True)
class WireStatistics:
    """What a wire keeps and has done."""

    pieces: int
    """Encoded pieces that are kept."""
    bytes: int
    """What they take, about."""
    encoded: int
    """Messages that were encoded."""
    bodies: int
    """Bodies that were joined."""


class Wire:
    """Makes the bodies of requests. For one thread.

    Args:
        most: bytes of encoded pieces to keep.
    """

    def __init__(self, most: int = MOST) -> None:
        self._kept = _Kept(most)
        self._encoded = 0
        self._bodies = 0

    def body(self, request: ModelRequest, *, stream: bool = False) -> bytes:
        """Return the body of a request as JSON.

        Args:
            stream: whether the reply is to come as events.

        Raises:
            InvalidRequest: its `params` or `tools` cannot be JSON of the right kind, or `params` has one of
                `OWN_MEMBERS`.
            CorruptBlob, ColdStoreError: the conversation is on disk and cannot be read.
        """
        hints = request.hints if request.hints is not None else NO_HINTS
        # The API refuses an hour behind five minutes, and tools come first.
        mark = ONE_HOUR if hints.hour and not _has_short_mark(request.tools) else FIVE_MINUTES
        room = BREAKPOINTS
        stretches = self._stretches(request)
        # Whatever may fail comes before `_join`: an error would keep its views of the turns, and those could not grow.
        members = _members(request)
        if hints.system or hints.marks:
            brought = sum([turns.own for turns, _, _ in stretches])
            room -= brought + _own(request.tools) + request.params.count(BREAKPOINT)
        parts: Parts = [_opening(request, hints, stream)]
        room -= self._prompt(request, mark if hints.system and room > 0 else b"", parts)
        parts.append(b',"messages":[')
        places = _places(stretches, hints.marks, room) if hints.marks else ()
        _join(stretches, places, mark, parts)
        parts.append(b"]")
        parts.append(members)
        self._bodies += 1
        return b"".join(parts)

    def statistics(self) -> WireStatistics:
        """Return what it keeps and has done."""
        kept = self._kept
        return WireStatistics(len(kept), kept.size, self._encoded, self._bodies)

    # The prompt.

    def _prompt(self, request: ModelRequest, mark: bytes, parts: Parts) -> int:
        """Add system prompt and tools to `parts`, marked if there is a mark; return how many breakpoints that took."""
        system = self._system(request.system, mark) if request.system else b""
        tools = request.tools if request.tools != b"[]" else b""
        marked = bool(mark and system)
        if system:
            parts.append(system)
        if tools:
            if mark and not marked and BREAKPOINT not in tools:
                tools = _mark_last(request, mark)
                marked = True
            parts.append(b',"tools":')
            parts.append(tools)
        return int(marked)

    def _system(self, system: str, mark: bytes) -> bytes:
        key = (system, mark)
        found: bytes | None = self._kept.get(key)
        if found is None:
            found = b""
            # Empty text is left out, as in messages.
            if system.strip():
                text = quote(system)
                block = b'[{"type":"text","text":%b%b}]' % (text, mark) if mark else text
                found = b',"system":' + block
            self._kept.keep(key, found, len(found) + len(system))
        return found

    # The messages.

    def _stretches(self, request: ModelRequest) -> list[Stretch]:
        stretches: list[Stretch] = []
        history = request.conversation
        before = 0
        if history is not None:
            for piece in history.pieces():
                turns = self._tail(piece) if piece.key is None else self._page(piece.key, piece)
                stretches.append((turns, piece.count, piece.first))
            before = len(history)
        for fragment in request.messages:
            stretches.append((self._message(fragment), 1, before))
            before += 1
        return stretches

    def _page(self, key: bytes, piece: Piece) -> Turns:
        turns: Turns | None = self._kept.get(key)
        if turns is None:
            turns = Turns(piece.messages())
            self._encoded += piece.count
            self._kept.keep(key, turns, turns.size)
        return turns

    def _tail(self, piece: Piece) -> Turns:
        tail = ref(piece.holder)
        found: _Tail | None = self._kept.get(tail)
        if found is None:
            found = _Tail()
        if found.read < piece.end:
            self._encoded += found.follow(piece)
            self._kept.keep(tail, found, found.turns.size)
        return found.turns

    def _message(self, fragment: bytes) -> Turns:
        is_large = len(fragment) >= KEPT_MESSAGE
        turns: Turns | None = self._kept.get(fragment) if is_large else None
        if turns is None:
            turns = Turns.of_fragment(fragment)
            self._encoded += 1
            if is_large:
                self._kept.keep(fragment, turns, turns.size + len(fragment))
        return turns


class _Tail:
    """The turns of an open tail, and how much of it they are: `read` bytes of its run, `bodies` blobs."""

    __slots__ = ("bodies", "read", "turns")

    def __init__(self) -> None:
        self.turns = Turns()
        self.read = 0
        self.bodies = 0

    def follow(self, piece: Piece) -> int:
        """Encode what a longer version of the tail has more; return how many messages that is."""
        had = len(self.turns)
        self.turns.extend(piece.messages(self.read, self.bodies))
        self.read = piece.end
        self.bodies = len(piece.blobs)
        return len(self.turns) - had


class _Kept:
    """Encoded pieces by key, up to `most` bytes; the one unused for longest goes first."""

    def __init__(self, most: int) -> None:
        self.size = 0
        self._most = most
        self._pieces: OrderedDict[Key, tuple[Any, int]] = OrderedDict()
        # Tails that died. They may do so inside the collector, in the middle of anything here, so that is all then.
        self._dead: deque[Key] = deque()

    def __len__(self) -> int:
        self._bury()
        return len(self._pieces)

    def get(self, key: Key) -> Any:
        """Return what is kept under a key, and count that as a use; None if there is nothing."""
        found = self._pieces.get(key)
        if found is None:
            return None
        self._pieces.move_to_end(key)
        return found[0]

    def keep(self, key: Key, piece: Any, size: int) -> None:
        """Keep a piece of `size` bytes, or note that it has that size now."""
        self._bury()
        known = self._pieces.pop(key, None)
        self.size += size - (known[1] if known is not None else 0)
        if isinstance(key, ref):
            # A key that tells when its tail dies.
            key = ref(key(), self._dead.append)
        self._pieces[key] = (piece, size)
        while self.size > self._most:
            _, (_, freed) = self._pieces.popitem(last=False)
            self.size -= freed

    def _bury(self) -> None:
        while self._dead:
            gone = self._pieces.pop(self._dead.popleft(), None)
            if gone is not None:
                self.size -= gone[1]


class _Control(msgspec.Struct):
    ttl: str = ""


class _Tool(msgspec.Struct):
    cache_control: _Control | None = None


_controls = msgspec.json.Decoder(list[_Tool])
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _opening(request: ModelRequest, hints: Hints, stream: bool) -> bytes:
    opening = b'{"model":%b,"max_tokens":%d' % (quote(request.model), request.max_tokens)
    if stream:
        opening += b',"stream":true'
    if hints.slot is not None:
        opening += b',"id_slot":%d' % hints.slot
    return opening


# Agents of one class have the same tools, and they are long.
@lru_cache(maxsize=256)
def _own(tools: bytes) -> int:
    return tools.count(BREAKPOINT)


@lru_cache(maxsize=256)
def _has_short_mark(tools: bytes) -> bool:
    """Tell whether tools bring along a breakpoint for five minutes. What is no array of objects has none."""
    if BREAKPOINT not in tools:
        return False
    try:
        found = _controls.decode(tools)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return any(tool.cache_control is not None and tool.cache_control.ttl != "1h" for tool in found)


def _mark_last(request: ModelRequest, mark: bytes) -> bytes:
    tools = request.tools
    end = tools.rfind(b"}")
    if end < 0 or tools[end + 1 :].strip() != b"]":
        raise _invalid(request, "tools", "a JSON array of objects", tools)
    # The first member has no comma before it.
    mark = mark[1:] if tools[:end].rstrip().endswith(b"{") else mark
    return b"".join((tools[:end], mark, tools[end:]))


def _members(request: ModelRequest) -> bytes:
    """Return the members of the parameters and the brace that ends the body."""
    params = request.params
    if not params:
        return b"}"
    try:
        members, again = _read_params(params)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        expected = 'a JSON object such as {"tool_choice":{"type":"any"}}'
        raise _invalid(request, "params", expected, params.strip()) from None
    if again:
        raise InvalidRequest(
            f"the request of {request.agent or 'its caller'} for {request.model!r} has params with the member "
            f"{again!r}, which its body has from the request itself; leave it out of params=.",
            model=request.model,
        )
    return members


# Agents of one class have the same parameters.
@lru_cache(maxsize=256)
def _read_params(params: bytes) -> tuple[bytes, str]:
    """Return what follows in the body, and a member that it has already; empty if there is none."""
    params = params.strip()
    if not params:
        return b"}", ""
    found = _object.decode(params)
    members = b"," + params[1:].lstrip() if found else b"}"
    return members, next((name for name in found if name in OWN_MEMBERS), "")


def _invalid(request: ModelRequest, name: str, expected: str, found: bytes) -> InvalidRequest:
    start = found[:40].decode("utf-8", "replace")
    who = request.agent or "its caller"
    return InvalidRequest(
        f"the request of {who} for {request.model!r} has {name} that begin {start!r}; {name}= takes the bytes of "
        f"{expected}.",
        model=request.model,
    )


def _places(stretches: Sequence[Stretch], marks: Iterable[int], room: int) -> Sequence[tuple[int, int]]:
    """Return where breakpoints go, as (stretch, offset in its text): the last ones, if there is not room for all."""
    places: set[tuple[int, int]] = set()
    for mark in sorted(marks, reverse=True):
        if len(places) >= room:
            break
        place = _place(stretches, mark)
        if place is not None:
            places.add(place)
    return sorted(places)


def _place(stretches: Sequence[Stretch], mark: int) -> tuple[int, int] | None:
    for index in range(len(stretches) - 1, -1, -1):
        turns, count, before = stretches[index]
        if before < mark:
            offset = turns.marks[min(mark - before, count) - 1]
            if offset:
                return index, offset
    return None


def _join(
    stretches: Sequence[Stretch],
    places: Iterable[tuple[int, int]],
    mark: bytes,
    parts: Parts,
) -> None:
    """Add the turns of all stretches to `parts`, with `mark` at all places; those are ascending."""
    role = ""
    waiting = deque(places)
    for index, (turns, count, _) in enumerate(stretches):
        end = turns.ends[count - 1]
        if not end:
            continue
        begin = 0
        if turns.begins == role:
            parts.append(b",")
            begin = len(OPENING[role])
        elif role:
            parts.append(CLOSING + b",")
        text = memoryview(turns.text)
        while waiting and waiting[0][0] == index:
            place = waiting.popleft()[1]
            parts.append(text[begin:place])
            parts.append(mark)
            begin = place
        parts.append(text[begin:end])
        role = turns.roles[count - 1]
    if role:
        parts.append(CLOSING)
