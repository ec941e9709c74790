"""ReplyCache: replies by the digest of their request, in the store: compressed, counted, and on disk with a home.

Each reply is a conversation of one message, whose notes say how it ended, what it took and until when it may be given.
With a home it is committed under a name made of the digest, so that the next process finds it: when it is asked for,
or, a few names at each `put`, so that what nobody asks for any more is forgotten too.

What is given was complete: a reply cut off at `max_tokens`, or a refusal, is not kept. What does not fit, or cannot be
written or read, is as if it had never been kept.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

import attrs

from avm.errors import StoreError
from avm.io.request import Completion, Usage, decode_fragment
from avm.memory import Conversation, Digest, Roots, Store

PREFIX = "avm.io/reply/"
"""Kept replies are committed under this and the digest in hex."""

MOST = 64 << 20
"""Bytes of replies kept, unless the caller says otherwise."""

COMPLETE = frozenset({"end_turn", "tool_use", "stop_sequence"})
"""Reasons to stop of replies that are complete."""

OVERHEAD = 1024
"""Bytes a kept reply is taken to cost besides its message: notes, names, what the store knows of it."""

LONGEST = 1e9
"""Seconds, thirty years, for which a reply may be given at most."""

LOOKED_AT = 32
"""Names in the home that are looked at with each reply that is kept, until all have been."""


@attrs.frozen(slots=True, kw_only=True)
class CacheStatistics:
    """What is kept, and how it went since the start."""

    replies: int
    bytes: int
    """Of messages, as they came, and what each costs besides."""
    hits: int
    misses: int
    evicted: int
    """Forgotten to make room."""
    expired: int
    lost: int
    """That the store had no room for, could not write to disk, or could not read back."""


@attrs.define(slots=True, eq=False)
class _Kept:
    conversation: Conversation
    size: int
    # Wall clock.
    kept: float
    until: float


class ReplyCache:
    """Replies by the digest of their request, those used last; one thread uses it.

    Args:
        store: where they are kept; None makes one of its own.
        roots: the store's; with a home, replies outlive the process. None keeps them in RAM.
        most: bytes of them, about; those used longest ago go first.
        wall: the time in seconds since 1970, which processes share.
        prefix: names under which they are committed begin with it.
        reasons: the reasons to stop of replies that are kept; None keeps all.
    """

    def __init__(
        self,
        store: Store | None = None,
        roots: Roots | None = None,
        most: int = MOST,
        *,
        wall: Callable[[], float] = time.time,
        prefix: str = PREFIX,
        reasons: frozenset[str] | None = COMPLETE,
    ) -> None:
        self.most = most
        self._store = store if store is not None else Store()
        self._roots = roots if roots is not None and roots.is_durable else None
        self._wall = wall
        self._prefix = prefix
        self._reasons = reasons
        # The one used longest ago first.
        self._kept: OrderedDict[Digest, _Kept] = OrderedDict()
        self._bytes = 0
        # What former processes have left and is not looked at yet.
        self._left: Iterator[str] | None = iter(self._roots) if self._roots is not None else None
        self._hits = self._misses = self._evicted = self._expired = self._lost = 0

    # What it is for.

    def get(self, digest: Digest, ttl: float = math.inf) -> Completion | None:
        """Return the reply to a request; None if none is kept that may be given.

        Args:
            ttl: seconds since it was kept, at most; the `ttl` it was kept with holds too.

        Returns:
            The reply with `source` "cache", its message as it came, byte by byte; 0 attempts and no timings.
        """
        found = None
        if self._knows(digest) and self._may_give(digest, ttl):
            found = self._open(digest)
            if found is None:
                self._lost += 1
                self._forget(digest)
        if found is None:
            self._misses += 1
        else:
            self._hits += 1
            self._kept.move_to_end(digest)
        return found

    def put(self, digest: Digest, completion: Completion, ttl: float) -> bool:
        """Keep a reply, in place of any other to the same request.

        Args:
            ttl: seconds for which it may be given.

        Returns:
            Whether it is kept: it is complete, and there is room.
        """
        self._look_around()
        if not ttl > 0 or (self._reasons is not None and completion.stop_reason not in self._reasons):
            return False
        now = self._wall()
        until = now + min(ttl, LONGEST)
        try:
            conversation = self._keep(completion, now, until)
        except StoreError:
            self._lost += 1
            return False
        if conversation is None or conversation.size + OVERHEAD > self.most:
            return False
        self._remove(digest)
        self._enter(digest, conversation, now, until)
        self._commit(digest, conversation)
        self._make_room()
        return True

    def drop(self, digest: Digest) -> None:
        """Forget a reply; nothing happens if there is none."""
        if self._knows(digest):
            self._forget(digest)

    def statistics(self) -> CacheStatistics:
        """Count what is kept, and hits and misses so far."""
        return CacheStatistics(
            replies=len(self._kept),
            bytes=self._bytes,
            hits=self._hits,
            misses=self._misses,
            evicted=self._evicted,
            expired=self._expired,
            lost=self._lost,
        )

    def __len__(self) -> int:
        return len(self._kept)

    # How old a reply is.

    def _may_give(self, digest: Digest, ttl: float) -> bool:
        kept, now = self._kept[digest], self._wall()
        if now < kept.kept:
            # The clock was set back. Its life begins anew, else it would last as much longer as the clock has jumped.
            kept.until -= kept.kept - now
            kept.kept = now
        if now < kept.until:
            return now - kept.kept < ttl
        del kept
        self._expired += 1
        self._forget(digest)
        return False

    # A reply as a conversation.

    def _keep(self, completion: Completion, now: float, until: float) -> Conversation | None:
        """Return the conversation that a reply is kept as; None if its message is no JSON."""
        usage = completion.usage
        notes = {
            "stop_reason": completion.stop_reason,
            "model": completion.model,
            "provider": completion.provider,
            "request_id": completion.request_id,
            "usage": attrs.asdict(usage) if usage is not None else None,
            "kept": now,
            "until": until,
        }
        fragment = completion.fragment
        try:
            message = decode_fragment(fragment)
            conversation = Conversation(self._store, meta=notes).append(message)
            if _rendered(conversation) == fragment:
                return conversation
            # It was written in another way than the store writes: with spaces, or numbers and escapes of its own.
            whole = {"role": "assistant", "content": fragment.decode()}
            return Conversation(self._store, meta={**notes, "is_whole": True}).append(whole)
        except (ValueError, TypeError):
            return None

    def _open(self, digest: Digest) -> Completion | None:
        """Return a reply; None if it cannot be read back."""
        conversation = self._kept[digest].conversation
        try:
            notes = conversation.meta
            if notes.get("is_whole"):
                fragment = str(conversation[0]["content"]).encode()
            else:
                fragment = _rendered(conversation)
        except StoreError:
            return None
        usage = notes["usage"]
        return Completion(
            fragment,
            notes["stop_reason"],
            notes["model"],
            Usage(**usage) if usage is not None else None,
            notes["provider"],
            notes["request_id"],
            source="cache",
            attempts=0,
        )

    # The table.

    def _enter(self, digest: Digest, conversation: Conversation, kept: float, until: float) -> None:
        size = conversation.size + OVERHEAD
        self._kept[digest] = _Kept(conversation, size, kept, until)
        self._bytes += size

    def _remove(self, digest: Digest) -> None:
        kept = self._kept.pop(digest, None)
        if kept is not None:
            self._bytes -= kept.size

    def _make_room(self) -> None:
        while self._bytes > self.most:
            self._evicted += 1
            self._forget(next(iter(self._kept)))

    def _forget(self, digest: Digest) -> None:
        # Nobody may hold it any more when the roots let go of it: they would read it back first, for whoever does.
        self._remove(digest)
        if self._roots is None:
            return
        try:
            self._roots.forget(self._name(digest))
        except StoreError:
            self._lost += 1

    # The home.

    def _name(self, digest: Digest) -> str:
        return f"{self._prefix}{digest.hex()}"

    def _commit(self, digest: Digest, conversation: Conversation) -> None:
        if self._roots is None:
            return
        try:
            self._roots.commit(self._name(digest), conversation)
        except StoreError:
            self._lost += 1

    def _knows(self, digest: Digest) -> bool:
        """Tell whether a reply is kept; one that a former process has left is taken in."""
        if digest in self._kept:
            return True
        if self._roots is None:
            return False
        try:
            conversation = self._roots.get(self._name(digest))
        except StoreError:
            self._lost += 1
            return False
        notes = conversation.meta if conversation is not None else {}
        if conversation is None or "kept" not in notes:
            return False
        self._enter(digest, conversation, notes["kept"], notes["until"])
        return True

    def _look_around(self) -> None:
        """Take in some of what former processes have left, as what was used longest ago."""
        for name in self._some_left():
            digest = self._digest_of(name)
            if digest is None or digest in self._kept:
                continue
            if self._knows(digest) and self._may_give(digest, math.inf):
                self._kept.move_to_end(digest, last=False)

    def _some_left(self) -> list[str]:
        if self._left is None:
            return []
        try:
            names = list(itertools.islice(self._left, LOOKED_AT))
        except StoreError:
            names = []
        if not names:
            self._left = None
        return names

    def _digest_of(self, name: str) -> Digest | None:
        if not name.startswith(self._prefix):
            return None
        try:
            return Digest.from_hex(name[len(self._prefix) :])
        except ValueError:
            return None


def _rendered(conversation: Conversation) -> bytes:
    """Return the message of a conversation that has one."""
    return conversation.render()[1:-1]
