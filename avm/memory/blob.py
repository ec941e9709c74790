"""Blob: the handle of immutable content in the store. Whoever holds it keeps the content; there is nothing to close."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from avm.memory import fragment
from avm.memory.digest import Digest, decode, encode
from avm.memory.kept import Kept, Note, footprint

if TYPE_CHECKING:
    from avm.memory.shelf import Shelf

Body = str | bytes
"""Content: bytes, or text, which is one content with its UTF-8 bytes."""


class Blob(Kept):
    """Content that is kept once, whoever put it. Made by `Store.put`; two handles of one content are one object."""

    __slots__ = ("alone", "charged", "escaped", "is_text", "key", "raw_form", "size", "twin")

    KIND = "blob"
    OVERHEAD = 450
    KNOWN = 50
    """Bytes of the table of identities for one that is hot, measured."""

    def __init__(self, shelf: Shelf, key: bytes, body: Body | None, size: int, is_text: bool) -> None:
        super().__init__(shelf)
        self.key = key
        self.size = size
        """Bytes of the content; for text, of its UTF-8."""
        self.is_text = is_text
        # A text grows when Python keeps its UTF-8 with it, so what was charged is remembered.
        self.charged = 0
        # Whether it counts as held by itself: it is in no conversation.
        self.alone = True
        self.raw_form: Body | None = body
        # The same content as the other type, kept while hot for those who put it, or want it, like that.
        self.twin: Body | None = None
        # The text as a JSON string, for rendering; kept while hot.
        self.escaped: bytes | None = None

    @property
    def digest(self) -> Digest:
        """The blake3 of the content."""
        return Digest(self.key)

    @property
    def raw(self) -> Body:
        """The one object all holders share: str or bytes, as it was first put."""
        self.touched = True
        raw = self.raw_form
        return raw if raw is not None else self.form(str if self.is_text else bytes)

    @property
    def text(self) -> str:
        """The content as text.

        Raises:
            UnicodeDecodeError: it was put as bytes that are not UTF-8.
        """
        form = self.form(str)
        assert isinstance(form, str)
        return form

    @property
    def content(self) -> bytes:
        """The content as bytes."""
        form = self.form(bytes)
        assert isinstance(form, bytes)
        return form

    def json(self) -> bytes:
        """Return the text as a JSON string in quotes."""
        self.touched = True
        escaped = self.escaped
        if escaped is not None:
            return escaped
        text = self.text
        # The encoder leaves the UTF-8 of a text with it; not with the one that is kept.
        made = fragment.quote(text if text.isascii() else decode(encode(text)))
        return self.shelf.remember_json(self, made)

    def form(self, kind: type[Body]) -> Body:
        """Return the content as `kind`: always the same object while the blob is hot."""
        self.touched = True
        raw, twin = self.raw_form, self.twin
        if raw is not None and type(raw) is kind:
            return raw
        if twin is not None and type(twin) is kind:
            return twin
        if raw is None:
            content = self.shelf.thaw(self)
            raw = self.raw_form
            if raw is None:
                return content if kind is bytes else decode(content)
            if type(raw) is kind:
                return raw
        return self.shelf.remember_form(self, encode(raw) if isinstance(raw, str) else decode(raw))

    def __repr__(self) -> str:
        return f"Blob({self.key[:4].hex()}, {self.size} bytes)"

    def belongs(self) -> None:
        """Note that it is part of a conversation, which counts it as held."""
        if self.alone:
            self.alone = False
            self.shelf.account.held -= self.size

    # How the tiers see it.

    def note(self) -> Note:
        idents = tuple([id(form) for form in (self.raw_form, self.twin) if form is not None])
        held = self.size if self.alone else 0
        return (self.KIND, self.key, self.charged, self.size, self.tier(), self.stored(), held, idents)

    def key_or_none(self) -> bytes | None:
        return self.key

    def is_raw(self) -> bool:
        return self.raw_form is not None

    def charge(self) -> int:
        forms = (self.raw_form, self.twin, self.escaped, self.packed)
        known = self.KNOWN if self.raw_form is not None else 0
        return self.OVERHEAD + known + sum([footprint(form) for form in forms if form is not None])

    def booked(self) -> int:
        return self.charged

    def trim(self) -> bool:
        twin = self.twin
        # Our own reference, this name, and the argument of getrefcount.
        unused = twin is not None and sys.getrefcount(twin) <= 3
        trims = unused or self.escaped is not None
        if unused:
            self.shelf.forget_form(self, twin)
            self.twin = None
        self.escaped = None
        return trims

    def snapshot(self) -> bytes | None:
        raw = self.raw_form
        # As in `trim`: another reference keeps the raw form in any case.
        if raw is None or sys.getrefcount(raw) > 3:
            return None
        return encode(raw) if isinstance(raw, str) else raw

    def can_unload(self) -> bool:
        # Our own reference, and the argument of getrefcount.
        return sys.getrefcount(self.raw_form) <= 2

    def unload(self, size: int) -> bool:
        self.raw_form = self.twin = self.escaped = None
        return True

    def load(self, content: bytes) -> None:
        self.raw_form = decode(content) if self.is_text else content
