"""Fragment: one message as compact JSON bytes, and runs of them.

Compact JSON holds no control characters: inside strings they are escaped, between tokens there is nothing. So two of
them are free to mean something. `BODY`, one byte, stands where a large string of the message has been taken out: it
is a blob, kept once for all who hold it, and the n-th BODY of a run stands for the n-th blob of that run. Fragments
of a run are joined by `JOINT`, a comma and a tab: a run in brackets with its bodies put back is a JSON array as it
stands, and no offsets need keeping.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from avm.memory.blob import Blob

Message = dict[str, Any]
"""One message in the neutral shape: role, content, and what else its writer put in."""

BODY_SIZE = 4096
"""Bytes from which on a string of a message is a blob: below, an object of its own costs more than sharing saves."""

BODY = b"\x01"
JOINT = b",\t"

MAX_DEPTH = 64
"""How deep a message may nest."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode
_TAKEN_OUT = msgspec.Raw(BODY)
_ESCAPED_BODY = b"\\u0001"


def quote(text: str) -> bytes:
    """Return a text as a JSON string in quotes; lone surrogates are escaped."""
    try:
        return _encode(text)
    except UnicodeEncodeError:
        return json.dumps(text).encode()


def encode(message: Mapping[str, Any], put: Callable[[str], Blob]) -> tuple[bytes, tuple[Blob, ...]]:
    """Return the fragment of a message and the blobs of the bodies taken out of it, in order.

    Raises:
        TypeError, ValueError: something in it is not JSON, so it would not come back as it is; says where.
    """
    if type(message) is not dict and not isinstance(message, Mapping):
        raise TypeError(
            f"message is a {type(message).__qualname__}; a message is a dict, as {{'role': 'user', ...}}."
        )
    if type(message) is dict and _is_plain(message, 0):
        try:
            return _encode(message), ()
        except UnicodeEncodeError:
            return _encode_surrogates(message), ()
    bodies: list[str] = []
    plain = _plain(message if type(message) is dict else dict(message), bodies, "message", 0)
    try:
        fragment = _encode(plain)
    except UnicodeEncodeError:
        fragment = _encode_surrogates(plain)
    return fragment, tuple([put(body) for body in bodies]) if bodies else ()


def _is_plain(value: Any, depth: int) -> bool:
    """Tell whether a dict or list is JSON with nothing to take out. False may also mean: look closer."""
    if type(value) is dict:
        for key in value:
            if type(key) is not str:
                return False
        value = value.values()
    for old in value:
        kind = type(old)
        if kind is str:
            if len(old) * 4 >= BODY_SIZE and (len(old) >= BODY_SIZE or not old.isascii()):
                return False
        elif kind is dict or kind is list:
            if depth >= MAX_DEPTH or not _is_plain(old, depth + 1):
                return False
        elif old is not None and kind is not int and kind is not bool:
            return False
    return True


def _plain(value: Any, bodies: list[str], where: str, depth: int) -> Any:
    """Return `value` with its large strings taken out; the same object if it has none."""
    kind = type(value)
    if kind is str:
        if len(value) >= BODY_SIZE or (len(value) * 4 >= BODY_SIZE and _utf8_size(value) >= BODY_SIZE):
            bodies.append(value)
            return _TAKEN_OUT
        return value
    if kind is dict:
        if depth > MAX_DEPTH:
            raise ValueError(f"{where} nests deeper than {MAX_DEPTH} values; flatten it.")
        changed = None
        for key, old in value.items():
            if type(key) is not str:
                raise TypeError(f"{where} has the key {key!r}; keys of a message are str.")
            new = old
            if type(old) is not str or (
                len(old) * 4 >= BODY_SIZE and (len(old) >= BODY_SIZE or not old.isascii())
            ):
                new = _plain(old, bodies, f"{where}[{key!r}]" if type(old) is not str else where, depth + 1)
            if new is not old:
                if changed is None:
                    changed = dict(value)
                changed[key] = new
        return value if changed is None else changed
    if kind is list:
        if depth > MAX_DEPTH:
            raise ValueError(f"{where} nests deeper than {MAX_DEPTH} values; flatten it.")
        items = [_plain(old, bodies, f"{where}[{n}]", depth + 1) for n, old in enumerate(value)]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    if value is None or kind is bool or kind is int:
        return value
    if kind is float:
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value!r}, which JSON cannot hold; use None or a string.")
        return value
    raise TypeError(
        f"{where} is a {kind.__qualname__}; messages are JSON: dict with str keys, list, str, int, float, bool, None."
    )


def _utf8_size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _encode_surrogates(plain: Any) -> bytes:
    # msgspec refuses lone surrogates, json escapes them. BODY cannot be given to json, so a text stands in for it.
    for number in itertools.count():
        stand_in = f"body {number}"
        token = json.dumps(stand_in).encode()
        bodies = 0

        def mark(value: Any, stand_in: str = stand_in) -> Any:
            nonlocal bodies
            if value is _TAKEN_OUT:
                bodies += 1
                return stand_in
            if isinstance(value, dict):
                return {key: mark(old) for key, old in value.items()}
            return [mark(old) for old in value] if isinstance(value, list) else value

        made = json.dumps(mark(plain), separators=(",", ":")).encode()
        if made.count(token) == bodies:
            return made.replace(token, BODY)
    raise AssertionError("numbers do not end")


def decode(fragment: bytes, blobs: Sequence[Blob]) -> Message:
    """Return the message of a fragment, the caller's own; its bodies are the shared texts themselves."""
    message: Message
    if not blobs or _ESCAPED_BODY in fragment:
        message = loads(splice(fragment, blobs))
        return message
    message = loads(fragment.replace(BODY, b'"\\u0001"'))
    texts = iter([blob.text for blob in blobs])
    _put_back(message, texts.__next__)
    return message


def compact(value: Any, what: str) -> bytes:
    """Return any JSON value as compact bytes, with nothing taken out. Errors as `encode`; `what` names the value."""
    bodies: list[str] = []
    _plain(value, bodies, what, 0)
    try:
        return _encode(value)
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def loads(text: bytes) -> Any:
    """Return a JSON value; lone surrogates are taken as they are."""
    try:
        return _decode(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return json.loads(text)


def _put_back(value: Any, body: Callable[[], str]) -> None:
    items: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else enumerate(value)
    for key, old in items:
        if old == "\x01":
            value[key] = body()
        elif isinstance(old, (dict, list)):
            _put_back(old, body)


def splice(run: bytes, blobs: Sequence[Blob]) -> bytes:
    """Return a run with its bodies put back in, as JSON strings."""
    if not blobs:
        return run
    pieces = run.split(BODY)
    parts = [pieces[0]]
    for blob, piece in zip(blobs, pieces[1:], strict=True):
        parts.append(blob.json())
        parts.append(piece)
    return b"".join(parts)


def separate(run: bytes, blobs: Sequence[Blob]) -> list[tuple[bytes, Sequence[Blob]]]:
    """Return the fragments of a run, each with its own blobs, oldest first."""
    if not run:
        return []
    # One byte is found much quicker than two; the commas go with a slice.
    *rest, last = run.split(JOINT[1:])
    made = [piece[:-1] for piece in rest]
    made.append(last)
    if not blobs:
        return [(piece, ()) for piece in made]
    parts = []
    at = 0
    for piece in made:
        end = at + piece.count(BODY)
        parts.append((piece, blobs[at:end]))
        at = end
    return parts


def messages(run: bytes, blobs: Sequence[Blob]) -> list[Message]:
    """Return the messages of a run, oldest first."""
    if blobs or not run:
        return [decode(made, bodies) for made, bodies in separate(run, blobs)]
    found: list[Message] = loads(b"".join((b"[", run, b"]")))
    return found
