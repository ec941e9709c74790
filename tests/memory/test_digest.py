"""Digests: values that name content."""

import pytest
from blake3 import blake3

from avm.memory import Digest


def test_a_digest_is_the_blake3_of_the_bytes():
    assert bytes(Digest.of(b"abc")) == blake3(b"abc").digest()
    assert len(Digest.of(b"").bytes) == 32


def test_a_text_has_the_digest_of_its_utf8():
    assert Digest.of("größer") == Digest.of("größer".encode())


def test_a_text_with_a_lone_surrogate_has_a_digest():
    assert Digest.of("\ud83d") != Digest.of("\ud83e")


def test_digests_are_hashable_ordered_and_frozen():
    one, two = Digest(b"\x01" * 32), Digest(b"\x02" * 32)

    assert one < two
    assert len({one, two, Digest(b"\x01" * 32)}) == 2
    with pytest.raises(AttributeError):
        one.bytes = two.bytes


def test_a_digest_is_written_short_and_read_back_from_its_hex():
    digest = Digest.of("x")

    assert repr(digest) == str(digest) == digest.hex()[:8]
    assert Digest.from_hex(digest.hex()) == digest


@pytest.mark.parametrize("wrong", [b"short", "0" * 32, bytearray(32), None])
def test_only_32_bytes_are_a_digest(wrong):
    with pytest.raises(ValueError, match="a digest is 32 bytes, got"):
        Digest(wrong)
