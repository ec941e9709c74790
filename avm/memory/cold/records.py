"""Records: how content and conversations are written to bytes, and read back with their digests checked.

A record is a checksum and msgpack: kind, bytes of content, digest of the dictionary (empty without), the blobs it
refers to, and the content as `compression` packs it. A manifest is what is known of one conversation besides its
content: its root, its pages in order, and where its tail begins. Sixteen bytes of blake3 stand before it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import attrs
import msgpack  # type: ignore[import-untyped]
from blake3 import blake3

from avm.errors import CorruptBlob
from avm.memory.blob import Blob, Body
from avm.memory.compression import Dictionary, compress, decompress, needs_dictionary
from avm.memory.digest import encode as encode_text
from avm.memory.kept import Kept
from avm.memory.page import Page, Tail, run_key

BYTES, TEXT, RUN = 0, 1, 2
"""Kinds of records: content put as bytes, content put as text, and a run of fragments."""

CHECK = 16
"""Bytes of the checksum before a manifest."""

SUM = 4
"""Bytes of the checksum before a record, a CRC-32: its digest is of content only, not of sizes and kinds."""

Known = tuple[bytes, int, bool]
"""A blob that is referred to: its digest, the bytes of its content, and whether it was put as text."""

FindDictionary = Callable[[bytes], Dictionary]


@attrs.frozen(slots=True)
class Piece:
    """What is to be written of one object, taken down at one moment: it may change while it waits."""

    kept: Kept
    kind: int
    key: bytes | None
    """None for a tail: its digest is taken when it is written."""
    size: int
    blobs: tuple[Blob, ...]
    packed: bytes | None
    dictionary: Dictionary | None
    raw: Body | None


def take_down(kept: Kept) -> Piece | None:
    """Return what is to be written of an object; None if it is on disk only."""
    packed = kept.packed
    if isinstance(kept, Blob):
        if kept.raw_form is None and packed is None:
            return None
        kind = TEXT if kept.is_text else BYTES
        return Piece(kept, kind, kept.key, kept.size, (), packed, kept.dictionary, kept.raw_form)
    assert isinstance(kept, (Page, Tail))
    raw = kept.snapshot()
    if raw is None and packed is None:
        return None
    key = kept.key if isinstance(kept, Page) else None
    return Piece(kept, RUN, key, kept.size, kept.blobs, packed, kept.dictionary, raw)


def encode_piece(piece: Piece, dictionary: Dictionary | None) -> tuple[bytes, bytes, Dictionary | None]:
    """Return the digest and the record of a piece, and the dictionary it needs; what is warm is written as it is."""
    packed, made_with = piece.packed, piece.dictionary
    content: bytes | None = None
    if packed is None:
        assert piece.raw is not None
        content = encode_text(piece.raw) if isinstance(piece.raw, str) else piece.raw
        packed, made_with = compress(content, dictionary), dictionary
    key = piece.key
    if key is None:
        content = content if content is not None else decompress(packed, made_with)
        key = run_key(content, [blob.key for blob in piece.blobs])
    return key, *_record(piece.kind, piece.size, piece.blobs, packed, made_with)


def encode_run(
    run: bytes, blobs: Sequence[Blob], dictionary: Dictionary | None
) -> tuple[bytes, Dictionary | None]:
    """Return the record of a run of fragments, and the dictionary it needs."""
    return _record(RUN, len(run), blobs, compress(run, dictionary), dictionary)


def _record(
    kind: int, size: int, blobs: Sequence[Blob], packed: bytes, dictionary: Dictionary | None
) -> tuple[bytes, Dictionary | None]:
    used = dictionary if needs_dictionary(packed) else None
    named = [(blob.key, blob.size, blob.is_text) for blob in blobs]
    return _pack((kind, size, used.key if used is not None else b"", named, packed)), used


@attrs.frozen(slots=True)
class Content:
    """What a record holds, checked."""

    kind: int
    content: bytes
    blobs: tuple[Known, ...]


def decode_record(key: bytes, value: bytes, find: FindDictionary, path: str) -> Content:
    """Return the content of a record.

    Raises:
        CorruptBlob: it is not what its digest says; names the digest and `path`.
    """
    found = read_record(value, find, lambda why: _corrupt(key, path, why))
    made = digest_of(found)
    if made != key:
        raise _corrupt(key, path, f"its content has the digest {made[:4].hex()}")
    return found


def digest_of(found: Content) -> bytes:
    """Return the digest that the content of a record has."""
    if found.kind == RUN:
        return run_key(found.content, [blob[0] for blob in found.blobs])
    return blake3(found.content).digest()


def read_record(value: bytes, find: FindDictionary, corrupt: Callable[[str], CorruptBlob]) -> Content:
    """Return the content of a record whose digest is checked elsewhere. Raises what `corrupt` makes."""
    try:
        kind, size, made_with, named, packed = _unpack(value)
        blobs = tuple([_known(*each) for each in named])
        if (
            not isinstance(packed, bytes)
            or not isinstance(made_with, bytes)
            or kind not in (BYTES, TEXT, RUN)
        ):
            raise ValueError("its header is damaged")
        content = decompress(packed, find(made_with) if made_with else None, size)
    except (ValueError, TypeError, CorruptBlob) as error:
        raise corrupt(str(error).rstrip(".")) from error
    if len(content) != size:
        raise corrupt(f"it holds {len(content)} bytes of {size}")
    return Content(kind, content, blobs)


def dictionary_of(value: bytes) -> bytes:
    """Return the digest of the dictionary a record was made with, empty if it needs none. ValueError if damaged."""
    return header_of(value)[2]


def header_of(value: bytes) -> tuple[int, int, bytes]:
    """Return the kind of a record, the bytes of its content, and as `dictionary_of`; nothing is unpacked or checked.

    Raises:
        ValueError: it is damaged.
    """
    found = _unpack(value)
    if (
        not isinstance(found, list)
        or [type(each) for each in found[:3]] != [int, int, bytes]
        or len(found) != 5
    ):
        raise ValueError("its header is damaged")
    kind, size, made_with = found[:3]
    return kind, size, made_with


def decode_dictionary(key: bytes, content: bytes | None, path: str) -> Dictionary:
    """Return a dictionary, as it was read.

    Raises:
        CorruptBlob: it is not there, or not what it was; names the digest and `path`.
    """
    # The digest before the dictionary: zstd refuses a damaged one with an error of its own.
    if content is None or blake3(content).digest() != key:
        raise CorruptBlob(
            f"the dictionary {key[:4].hex()} in {path} is {'missing' if content is None else 'damaged'}; what was "
            "compressed with it cannot be read.",
            key.hex(),
            path,
        )
    return Dictionary(content)


def _known(key: object, size: object, is_text: object) -> Known:
    if not isinstance(key, bytes) or not isinstance(size, int) or not isinstance(is_text, bool):
        raise ValueError("its header is damaged")
    return key, size, is_text


def _corrupt(key: bytes, path: str, why: str) -> CorruptBlob:
    return CorruptBlob(
        f"the record of blob {key[:4].hex()} in {path} is damaged: {why}. It is set aside, all else is untouched; put "
        "the content again to mend it, or run `avm store verify` on the home.",
        key.hex(),
        path,
    )


@attrs.frozen(slots=True)
class SealedRecord:
    """A page in a manifest: as `Sealed`, by digest."""

    key: bytes
    first: int
    root: bytes
    base: int


@attrs.frozen(slots=True, kw_only=True)
class Manifest:
    """One conversation on disk.

    Attributes:
        tail_key: the check of the tail: a digest over those of its pieces, in order.
        start: the digest of a record that holds the beginning of the tail; None if it begins with its segments.
        segments: how many segments follow, numbered from 0.
        blobs: digests of the bodies of all messages.
        changed: seconds since 1970 when it was committed.
    """

    name: str
    root: bytes
    length: int
    size: int
    meta: bytes
    system: Known | None
    tools: Known | None
    pages: tuple[SealedRecord, ...]
    tail_first: int
    tail_root: bytes
    tail_base: int
    tail_key: bytes
    start: bytes | None
    segments: int
    blobs: tuple[bytes, ...]
    changed: float

    def targets(self) -> set[bytes]:
        """Return the digests of all content it refers to."""
        found = {page.key for page in self.pages}
        found.update(self.blobs)
        found.update(known[0] for known in (self.system, self.tools) if known is not None)
        if self.start is not None:
            found.add(self.start)
        return found


def encode_manifest(manifest: Manifest) -> bytes:
    """Return a manifest as bytes."""
    pages = [(page.key, page.first, page.root, page.base) for page in manifest.pages]
    fields = attrs.asdict(manifest, recurse=False)
    fields["pages"], fields["blobs"] = pages, b"".join(manifest.blobs)
    body = _to_msgpack(tuple(fields.values()))
    return blake3(body).digest()[:CHECK] + body


def decode_manifest(value: bytes, path: str) -> Manifest:
    """Return a manifest.

    Raises:
        CorruptBlob: it is damaged; names `path`.
    """
    body = value[CHECK:]
    if blake3(body).digest()[:CHECK] != value[:CHECK]:
        raise CorruptBlob(
            f"the manifest of a conversation in {path} is damaged; `avm store verify` says which.", "", path
        )
    fields = dict(zip((field.name for field in attrs.fields(Manifest)), _from_msgpack(body), strict=True))
    blobs = fields["blobs"]
    fields["blobs"] = tuple([blobs[n : n + 32] for n in range(0, len(blobs), 32)])
    fields["pages"] = tuple([SealedRecord(*page) for page in fields["pages"]])
    for known in ("system", "tools"):
        fields[known] = tuple(fields[known]) if fields[known] is not None else None
    return Manifest(**fields)


def name_of(value: bytes) -> str:
    """Return the name in a manifest whose checksum is wrong; it may be another one. ValueError if there is none."""
    found = _from_msgpack(value[CHECK:])
    if not isinstance(found, list) or not found or not isinstance(found[0], str):
        raise ValueError("its header is damaged")
    name: str = found[0]
    return name


def conversation_id(name: str) -> bytes:
    """Return what a conversation's rows are found by: 16 bytes made of its name, whatever its length."""
    return blake3(name.encode("utf-8", "surrogatepass")).digest()[:16]


def next_check(check: bytes, run: bytes, names: Sequence[bytes]) -> bytes:
    """Return the check of a tail after one more piece of it: the start, or a segment.

    Args:
        check: that of the pieces before it; empty for the first.
        names: digests of the bodies in `run`.
    """
    return blake3(check + run_key(run, names)).digest()


def check_of(pieces: Iterable[Content]) -> bytes:
    """Return the check of a tail in pieces; empty for none."""
    check = b""
    for piece in pieces:
        check = next_check(check, piece.content, [known[0] for known in piece.blobs])
    return check


def segment_key(id: bytes, number: int) -> bytes:
    """Return the key of a conversation's segment."""
    return id + number.to_bytes(4, "big")


def _pack(value: Any) -> bytes:
    """Return a record: its checksum and its fields. Of these the digest names only some."""
    body = _to_msgpack(value)
    return _sum(body) + body


def _unpack(value: bytes) -> Any:
    body = value[SUM:]
    if _sum(body) != value[:SUM]:
        raise ValueError("its checksum is wrong")
    return _from_msgpack(body)


def _sum(body: bytes) -> bytes:
    return zlib.crc32(body).to_bytes(SUM, "big")


def _to_msgpack(value: Any) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True, unicode_errors="surrogatepass")
    return packed


def _from_msgpack(body: bytes) -> Any:
    try:
        return msgpack.unpackb(body, raw=False, unicode_errors="surrogatepass")
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ValueError(f"its header is damaged ({type(error).__name__})") from error
