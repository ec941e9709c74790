"""Chain: the messages of one version of a conversation, as RAM holds them: sealed pages, and its part of a tail.

A chain is an immutable value. The next version's chain shares everything with it but the new message.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence

import attrs
from blake3 import blake3

from avm.memory import fragment as fragments
from avm.memory.blob import Blob
from avm.memory.fragment import JOINT, Message
from avm.memory.page import PAGE_SIZE, Page, Tail, run_key
from avm.memory.shelf import Shelf


@attrs.frozen(slots=True, eq=False)
class Sealed:
    """A page in a conversation: what was before it."""

    page: Page
    first: int
    """The index of its first message."""
    root: bytes
    """The rolling root before that message."""
    base: int
    """The raw bytes of the conversation before that message."""


class Chain:
    """Pages, and how much of the tail is this version's: `end` bytes, `count` messages, `bodies` blobs."""

    __slots__ = ("bodies", "count", "end", "pages", "tail")

    def __init__(self, pages: tuple[Sealed, ...], tail: Tail, end: int, count: int, bodies: int) -> None:
        self.pages = pages
        self.tail = tail
        self.end = end
        self.count = count
        self.bodies = bodies

    @classmethod
    def begin(cls, shelf: Shelf, root: bytes, size: int) -> Chain:
        """Return the chain of no messages after a head of that root and size."""
        return cls((), begin_tail(shelf, 0, root, size), 0, 0, 0)

    # Growing and shrinking.

    def push(
        self, shelf: Shelf, made: bytes, blobs: Sequence[Blob], before: tuple[int, bytes, int], forks: bool
    ) -> Chain:
        """Return the chain with one more fragment.

        Args:
            before: length, root and size of the conversation so far.
            forks: another version than the newest of its line grows, so the tail is not shared on.

        Raises:
            StoreFullError, TooLargeError: the store has no room; nothing has changed.
        """
        tail, pages, end, count, bodies = self.tail, self.pages, self.end, self.count, self.bodies
        seals = count > 0 and end + len(JOINT) + len(made) > PAGE_SIZE
        if shelf.limit is not None:
            self._make_room(shelf, len(made), seals or forks or end != tail.size)
        if seals:
            run, names = self.tail_run(), [blob.key for blob in tail.blobs[:bodies]]
            page = shelf.intern_page(Page(shelf, run_key(run, names), run, tail.blobs[:bodies]))
            pages = (*pages, Sealed(page, tail.first, tail.root, tail.base))
            length, root, size = before
            tail = begin_tail(shelf, length, root, size)
            count = bodies = 0
        elif end != tail.size:
            tail = begin_tail(shelf, tail.first, tail.root, tail.base)
            tail.push(self.tail_run(), self.tail.blobs[:bodies])
        end = tail.push(made, blobs)
        return Chain(pages, tail, end, count + 1, bodies + len(blobs))

    def _make_room(self, shelf: Shelf, size: int, copies: bool) -> None:
        tail = self.tail
        # An open run is made with room to grow by an eighth; a sealed or copied one is added to the old.
        growth = size + (tail.size + size) // 8 + 200
        growth += tail.size if not tail.is_raw() else 0
        growth += 2 * self.end + 2000 if copies else 0
        shelf.admit(size)
        shelf.room(growth, tail)

    def cut(self, length: int) -> tuple[Chain, bytes, int]:
        """Return chain, root and size of the version of `length` messages, which ends in this one's tail."""
        tail = self.tail
        parts = fragments.separate(self.tail_run(), tail.blobs[: self.bodies])[: length - tail.first]
        root, size = tail.root, tail.base
        for made, blobs in parts:
            root = step(root, made, blobs)
            size += raw_size(made, blobs)
        end = sum(len(made) for made, _ in parts) + len(JOINT) * max(len(parts) - 1, 0)
        bodies = sum(len(blobs) for _, blobs in parts)
        return Chain(self.pages, tail, end, len(parts), bodies), root, size

    def reopen(self, shelf: Shelf, length: int) -> tuple[Chain, bytes, int]:
        """As `cut`, for a version that ends in a page: its beginning becomes a tail again."""
        index = max(bisect_right(self.pages, length - 1, key=lambda sealed: sealed.first) - 1, 0)
        sealed = self.pages[index]
        run = sealed.page.run()
        shelf.room(Tail.OVERHEAD + len(run) + len(run) // 8 + 200, sealed.page)
        tail = begin_tail(shelf, sealed.first, sealed.root, sealed.base)
        for made, blobs in fragments.separate(run, sealed.page.blobs)[: length - sealed.first]:
            tail.push(made, blobs)
        return Chain(self.pages[:index], tail, tail.size, 0, len(tail.blobs)).cut(length)

    # Reading.

    def tail_run(self) -> bytes:
        """Return this version's part of the tail."""
        return self.tail.run(self.end)

    def first(self, at: int) -> int:
        """Return the index of the first message of the `at`-th page; of the tail, if there is no such page."""
        return self.pages[at].first if at < len(self.pages) else self.tail.first

    def runs(self, at: int = 0) -> Iterator[tuple[bytes, Sequence[Blob]]]:
        """Go through the pages from the `at`-th on and the tail, each as a run and its blobs; none is empty."""
        for sealed in self.pages[at:] if at else self.pages:
            yield sealed.page.run(), sealed.page.blobs
        if self.count:
            bodies = self.bodies
            yield self.tail_run(), self.tail.blobs[:bodies] if bodies else ()

    def decode(self, low: int, high: int) -> list[Message]:
        """Return the messages from `low` to before `high`; both are in range."""
        at = max(bisect_right(self.pages, low, key=lambda sealed: sealed.first) - 1, 0)
        if low >= self.tail.first:
            at = len(self.pages)
        first = index = self.first(at)
        found: list[tuple[bytes, Sequence[Blob]]] = []
        for run, blobs in self.runs(at):
            if index >= high:
                break
            parts = fragments.separate(run, blobs)
            index += len(parts)
            found.extend(parts)
        return [fragments.decode(made, blobs) for made, blobs in found[low - first : high - first]]

    def diff(self, other: Chain) -> int | None:
        """As `Conversation.diff`."""
        at = 0
        for mine, theirs in zip(self.pages, other.pages, strict=False):
            if mine.page.key != theirs.page.key:
                break
            at += 1
        ours = [part for run in self.runs(at) for part in fragments.separate(*run)]
        others = [part for run in other.runs(at) for part in fragments.separate(*run)]
        first = self.first(at)
        for index, (one, two) in enumerate(zip(ours, others, strict=False)):
            if one[0] != two[0] or [blob.key for blob in one[1]] != [blob.key for blob in two[1]]:
                return first + index
        return None if len(ours) == len(others) else first + min(len(ours), len(others))

    def bodies_of_all(self) -> list[Blob]:
        """Return the blobs of all its messages, in order."""
        found = [blob for sealed in self.pages for blob in sealed.page.blobs]
        found.extend(self.tail.blobs[: self.bodies])
        return found


def begin_tail(shelf: Shelf, first: int, root: bytes, base: int) -> Tail:
    """Return a new, empty tail, on the books."""
    tail = Tail(shelf, first, root, base)
    shelf.keep(tail)
    return tail


def step(root: bytes, made: bytes, blobs: Sequence[Blob]) -> bytes:
    """Return the rolling root after one more message."""
    # Which body belongs where is said by the BODY bytes in the fragment, and where it ends by its last brace.
    if blobs:
        made = b"".join((made, *[blob.key for blob in blobs]))
    return blake3(root + blake3(made).digest()).digest()


def raw_size(made: bytes, blobs: Sequence[Blob]) -> int:
    """Return the bytes of a message with its bodies as they are."""
    return len(made) + sum([blob.size - 1 for blob in blobs]) if blobs else len(made)
