"""zstd behind one small module: records in, records out. Python's `compression.zstd` can take zstandard's place.

A record is a flag byte and a body: the content itself where it would not shrink, else one zstd frame, made with a
trained dictionary or without. The flag is put in front by a join, which also copies the frame to fit: what
`ZstdCompressor.compress` returns keeps its whole worst-case buffer, three times the bytes that `len` and `getsizeof`
show.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import zstandard

from avm.errors import CorruptBlob
from avm.memory.digest import Digest

LEVEL = 3
"""The knee: level 9 costs 4-5 times the CPU for a tenth less."""

DICTIONARY_SIZE = 110 * 1024
"""Bytes of a trained dictionary; larger ones gain nothing."""

SMALLEST = 64
"""Content shorter than this is never compressed."""

PLAIN, FRAME, FRAME_WITH_DICTIONARY = b"\x00", b"\x01", b"\x02"


class Dictionary:
    """A trained dictionary. Frames made with it can be read only with it, so records on disk name it by its digest."""

    __slots__ = ("__weakref__", "_contexts", "content", "digest", "key", "zstd")

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.digest = Digest.of(content)
        self.key = self.digest.bytes
        self.zstd = zstandard.ZstdCompressionDict(content)
        self._contexts = _Contexts(self.zstd)

    @property
    def contexts(self) -> _Contexts:
        """This thread's compressor and decompressor."""
        return self._contexts


class _Contexts(threading.local):
    """A compressor and a decompressor of one thread: their tables must not be shared, and are dear to make."""

    def __init__(self, zstd: zstandard.ZstdCompressionDict | None) -> None:
        self._zstd = zstd
        self._compressor: zstandard.ZstdCompressor | None = None
        self.decompressor = zstandard.ZstdDecompressor(dict_data=zstd)

    @property
    def compressor(self) -> zstandard.ZstdCompressor:
        """The compressor; it takes 0.8 MB once it was used."""
        if self._compressor is None:
            self._compressor = zstandard.ZstdCompressor(
                level=LEVEL, dict_data=self._zstd, write_dict_id=False
            )
        return self._compressor

    def forget_compressor(self) -> None:
        """Give back what it takes; another is made when one is needed."""
        self._compressor = None


_plain = _Contexts(None)


def compress(content: bytes, dictionary: Dictionary | None = None) -> bytes:
    """Return the record of `content`: at most one byte longer than it. May run in any thread; lets go of the GIL."""
    if len(content) >= SMALLEST:
        if dictionary is None:
            frame = _plain.compressor.compress(content)
        else:
            # Who has a dictionary compresses hardly anything without.
            _plain.forget_compressor()
            frame = dictionary.contexts.compressor.compress(content)
        if len(frame) < len(content):
            flag = FRAME if dictionary is None else FRAME_WITH_DICTIONARY
            return b"".join((flag, frame))
    return b"".join((PLAIN, content))


def decompress(record: bytes, dictionary: Dictionary | None = None, size: int | None = None) -> bytes:
    """Return the content of a record.

    Args:
        dictionary: the one it was made with, if it was made with one.
        size: the bytes it should have, where the record comes from outside: a damaged one may claim any number.

    Raises:
        CorruptBlob: the record is damaged, or was made with another dictionary.
    """
    flag = record[:1]
    if flag == PLAIN:
        return record[1:]
    if flag not in (FRAME, FRAME_WITH_DICTIONARY) or (flag == FRAME_WITH_DICTIONARY and dictionary is None):
        needs = "a dictionary that was not given" if flag == FRAME_WITH_DICTIONARY else "flag 0, 1 or 2"
        raise CorruptBlob(f"record of {len(record)} bytes begins with {flag!r}: expected {needs}.")
    if size is not None and zstandard.frame_content_size(record[1:19]) != size:
        raise CorruptBlob(f"record of {len(record)} bytes is no frame of {size} bytes of content.")
    contexts = dictionary.contexts if flag == FRAME_WITH_DICTIONARY and dictionary is not None else _plain
    try:
        return contexts.decompressor.decompress(memoryview(record)[1:])
    except zstandard.ZstdError as error:
        raise CorruptBlob(f"record of {len(record)} bytes is no whole zstd frame: {error}.") from error


def forget_compressors(dictionaries: Iterable[Dictionary]) -> None:
    """Give back what this thread's compressors take, 0.8 MB each; others are made when they are needed."""
    _plain.forget_compressor()
    for dictionary in dictionaries:
        dictionary.contexts.forget_compressor()


def needs_dictionary(record: bytes) -> bool:
    """Tell whether a record was made with a dictionary."""
    return record[:1] == FRAME_WITH_DICTIONARY


def train(samples: Sequence[bytes]) -> Dictionary | None:
    """Make a dictionary of what samples have in common; None if there is too little of it. Takes 0.1-0.3 s of CPU."""
    try:
        trained = zstandard.train_dictionary(DICTIONARY_SIZE, list(samples), k=2048, d=8, f=18, level=LEVEL)
    except zstandard.ZstdError:
        return None
    made = Dictionary(trained.as_bytes())
    # One that is only read back, from disk, does without these tables.
    made.zstd.precompute_compress(level=LEVEL)
    return made
