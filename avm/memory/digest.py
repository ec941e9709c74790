"""Digest: the name of content, the 32-byte blake3 of its bytes, as a value."""

from __future__ import annotations

import builtins

import attrs
from blake3 import blake3

LENGTH = 32
"""Bytes of a digest."""


@attrs.frozen(slots=True, order=True, repr=False, str=False)
class Digest:
    """A blake3-256. Equal digests mean equal content; text is named by its UTF-8 bytes."""

    bytes: builtins.bytes

    def __attrs_post_init__(self) -> None:
        found: object = self.bytes
        if not isinstance(found, bytes) or len(found) != LENGTH:
            size = f"{len(found)} bytes" if isinstance(found, bytes) else repr(found)
            raise ValueError(f"a digest is {LENGTH} bytes, got {size}; Digest.of(content) makes one.")

    @classmethod
    def of(cls, content: builtins.bytes | str) -> Digest:
        """Return the digest of bytes, or of the UTF-8 bytes of a text."""
        return cls(blake3(encode(content) if isinstance(content, str) else content).digest())

    @classmethod
    def from_hex(cls, text: str) -> Digest:
        """Return the digest that `hex` wrote.

        Raises:
            ValueError: not 64 hexadecimal digits.
        """
        return cls(builtins.bytes.fromhex(text))

    def hex(self) -> str:
        """Return all 64 hexadecimal digits."""
        return self.bytes.hex()

    def __bytes__(self) -> builtins.bytes:
        return self.bytes

    def __repr__(self) -> str:
        return self.bytes[:4].hex()

    __str__ = __repr__


def encode(text: str) -> bytes:
    """Return the bytes a text is kept as: UTF-8, and lone surrogates, which recorded texts do hold, as they are."""
    return text.encode("utf-8", "surrogatepass")


def decode(content: bytes) -> str:
    """Return the text that `encode` made into bytes."""
    return content.decode("utf-8", "surrogatepass")
