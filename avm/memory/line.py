"""Line: the versions of a conversation that one owner goes through. It keeps no bytes; it is what `held` counts by.

The versions of one line are counted once, with the size of the newest. A fork begins a line, and so does appending to
another version than the newest, since both ends live on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avm.memory.shelf import Shelf


class Line:
    """One line of conversation."""

    __slots__ = ("asleep", "held", "name", "shelf", "version")

    OVERHEAD = 300
    """Bytes of a line and its `Conversation`, from the layout of both; RSS of an awake one agrees with the sum."""

    KIND, BEGUN = "line", "begun"
    """What notes of its end and its beginning are called."""

    def __init__(self, shelf: Shelf, held: int) -> None:
        self.shelf = shelf
        self.version = 0
        # Bytes its owner would hold without the store.
        self.held = held
        # What it was last committed as; a version that is asleep is read back by that.
        self.name: str | None = None
        self.asleep = False

    def __del__(self) -> None:
        self.shelf.notes.append((self.KIND, self.held, self.asleep))
