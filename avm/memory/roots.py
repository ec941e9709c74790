"""Roots: conversations by name, each the last that was committed. A turn is a transaction, and here it commits.

A conversation is an immutable value, so in RAM a root is a reference and a commit is one store into a table. With a
home every commit is also written to disk: what it adds, in a group with others, and its future is done when it is
there. What is on disk may sleep: it leaves RAM but for a stub, and comes back when it is used.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import attrs

from avm.errors import MissingBlob, StoreError
from avm.memory.blob import Blob
from avm.memory.cold.records import Known, Manifest
from avm.memory.cold.writes import Commit, Saved, Version
from avm.memory.head import Head
from avm.memory.line import Line
from avm.memory.restore import Fetched, fetch, restore

if TYPE_CHECKING:
    from avm.memory.chain import Chain
    from avm.memory.conversation import Conversation
    from avm.memory.store import Store

LOOKED_AT = 1000
"""Conversations that are looked at for one that may sleep, at a time."""

DONE: Future[None] = Future()
"""What a commit answers that has nothing to wait for."""
DONE.set_result(None)


@attrs.frozen(slots=True)
class RootsStatistics:
    """How many roots RAM knows, how many of them sleep, and how many commits there have been."""

    roots: int
    asleep: int
    commits: int


@attrs.define(slots=True)
class Pending:
    """Commits of one name that are being written, and the version before the first of them."""

    before: Conversation | None
    count: int = 0
    is_released: bool = False


class Roots:
    """Committed conversations by name; an agent's name is its path unless it chooses another. One thread uses it.

    Args:
        store: where they are kept. With a home, names are those of all conversations in it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._roots: dict[str, Conversation] = {}
        # Those that are awake, the one committed or woken longest ago first, with the round in which that was.
        self._awake: dict[str, int] = {}
        # Those that sleep and are no root any more, by the name they are read back by, while somebody has them.
        self._asleep: WeakValueDictionary[str, Conversation] = WeakValueDictionary()
        self._newest: Future[None] | None = None
        self._round = 0
        self._saved: dict[str, Saved] = {}
        self._pending: dict[str, Pending] = {}
        self._forgotten: dict[str, int] = {}
        self._commits = 0

    @property
    def is_durable(self) -> bool:
        """Whether commits go to disk: the store has a home."""
        return self._store.has_home

    # Committing.

    def get(self, name: str) -> Conversation | None:
        """Return the last committed conversation of a name, None if there is none.

        One that is only on disk comes asleep: its manifest is read, and its messages when they are used.

        Raises:
            CorruptBlob, ColdStoreError: its manifest cannot be read.
        """
        # A commit that has failed meanwhile is taken back first.
        self._store.shelf.settle()
        found = self._roots.get(name)
        if found is None and self._store.has_home and name not in self._forgotten:
            archive = self._store.need_archive()
            manifest = archive.manifest(name)
            if manifest is not None:
                found = self._roots[name] = self._stub_of(name, manifest)
        return found

    def commit(self, name: str, conversation: Conversation) -> Future[None]:
        """Make a conversation the one a name stands for.

        Returns:
            A future that is done when it is on disk, at once without a home. If that fails it has the error, and the
            name stands for what it stood for before.

        Raises:
            StoreError: it is kept in another store, or sleeps and cannot be read back, or the store is closed; nothing
                has changed.
        """
        self._store.shelf.settle()
        self._refuse_foreign(name, conversation)
        if self._store.has_home:
            self._store.need_archive().writer.require()
            conversation._awake()
        before = self._before(name, conversation)
        self._roots[name] = conversation
        self._commits += 1
        if not conversation.is_asleep:
            self._stays_awake(name)
        if not self._store.has_home:
            return DONE
        return self._write(name, conversation, before)

    def forget(self, name: str) -> Future[None]:
        """Let go of a root, in RAM and on disk, so that its content can be freed.

        Returns:
            A future that is done when it is gone from disk.
        """
        self._store.shelf.settle()
        is_on_disk = self._store.has_home or self._store.has_archive
        archive = self._store.need_archive() if is_on_disk else None
        before = self._before(name, None)
        if before is not None and before._line.name == name:
            before._line.name = None
        self._let_go(name)
        # What is being written of it is written before it is deleted, and no failure of that brings it back.
        self._pending.pop(name, None)
        if archive is None:
            return DONE
        self._forgotten[name] = self._forgotten.get(name, 0) + 1
        return archive.forget(name, lambda: self._forget_over(name))

    def release(self, name: str) -> None:
        """Let RAM go of a root. On disk it stays, if there is a home; without one this is `forget`."""
        if not self._store.has_home:
            self.forget(name)
        elif name in self._pending:
            self._pending[name].is_released = True
        else:
            self._let_go(name)

    def release_all(self) -> None:
        """Let RAM go of all roots. On disk they stay, if there is a home."""
        for name in list(self._roots):
            self.release(name)

    # Sleeping and waking.

    def put_to_sleep(self, conversation: Conversation, name: str | None = None) -> bool:
        """As `Conversation.sleep`: without a home, what is on disk is what was written to let it sleep.

        Args:
            name: what it is committed as; None takes what a version of its line was committed as last.
        """
        shelf = self._store.shelf
        shelf.settle()
        name = name if name is not None else conversation._line.name
        if name is None or self._roots.get(name) is not conversation or name in self._pending:
            return False
        saved = self._saved.get(name)
        chain = conversation._chain
        if saved is None or chain is None or saved.tail is not chain.tail or saved.end != chain.end:
            return False
        if not self._has_own_line(conversation):
            return False
        conversation._line.name = name
        del self._saved[name]
        self._awake.pop(name, None)
        conversation._chain = None
        shelf.account.sleep(conversation._line)
        return True

    # What sleeps is read back by the name in its line, so other versions that are awake must not change that.
    def _has_own_line(self, conversation: Conversation) -> bool:
        """See to it that no other version is in the line of a conversation; False if there is no room for another."""
        shelf = self._store.shelf
        # The conversation and the argument of getrefcount.
        if sys.getrefcount(conversation._line) > 2:
            if not shelf.fits(Line.OVERHEAD):
                return False
            conversation._line = shelf.begin_line(conversation._size)
            conversation._version = 0
        return True

    def wake_up(self, conversation: Conversation) -> Chain:
        """Read a sleeping conversation back. Raises as `Conversation.wake`."""
        began = time.perf_counter()
        manifest = self._manifest_of(conversation)
        fetched = fetch(self._store.need_archive(), manifest, self._is_here)
        return self._restore(conversation, fetched, began)

    async def wake(self, conversation: Conversation) -> None:
        """Read a sleeping conversation back in another thread, and wait for it; back-pressure included.

        Raises:
            CorruptBlob, MissingBlob, ColdStoreError: it cannot be read. StoreFullError: there is no room.
        """
        if not conversation.is_asleep:
            return
        began = time.perf_counter()
        archive = self._store.need_archive()

        def read() -> Fetched:
            return fetch(archive, self._manifest_of(conversation), self._is_here)

        # The room is kept free from now on: others who wake must not count on it too.
        await self._store.wait_room(conversation.size)
        account = self._store.shelf.account
        account.charge += conversation.size
        try:
            fetched = await asyncio.get_running_loop().run_in_executor(self._store.reader(), read)
        finally:
            account.charge -= conversation.size
        name = conversation._line.name
        if conversation._chain is None:
            if name is not None and self._roots.get(name) is conversation:
                self._restore(conversation, fetched, began)
            else:
                # Nobody vouches any more for what was read.
                conversation.wake()

    def passivate(self, size: int) -> int:
        """Let those that were used longest ago sleep, until about `size` bytes of RAM are free.

        What is not on disk yet is written first, and sleeps when it is.

        Returns:
            The bytes that this frees, now or when they are written.
        """
        freed = 0
        for name in list(itertools.islice(self._awake, LOOKED_AT)):
            if freed >= size:
                break
            conversation = self._roots.get(name)
            if conversation is None or name not in self._awake:
                # Gone meanwhile: what was written is taken note of in between.
                continue
            chain = conversation._chain
            if chain is None or name in self._pending or chain.tail.touched:
                # In use: another time.
                self._stays_awake(name)
                continue
            freed += chain.tail.charge() + sum(sealed.page.charge() for sealed in chain.pages)
            if not self.put_to_sleep(conversation, name):
                self._newest = self._write(name, conversation, conversation, then_sleep=True)
        return freed

    def newest(self) -> Future[None] | None:
        """Return the newest of the writes that let something sleep; None if it is over."""
        newest = self._newest
        return newest if newest is not None and not newest.done() else None

    def passivate_idle(self, rounds: int) -> None:
        """Let sleep what is on disk and was not used for so many rounds; each call is a round.

        Only with a home: without one it would have to be written for that, which `passivate` does when RAM is short.
        """
        self._round += 1
        if not self._store.has_home:
            return
        for name in list(itertools.takewhile(lambda n: self._round - self._awake[n] > rounds, self._awake)):
            conversation = self._roots.get(name)
            if conversation is not None and name in self._awake and not self.put_to_sleep(conversation, name):
                # It is being written, or in use in a version of its own: another day.
                self._stays_awake(name)

    # Looking at it.

    def statistics(self) -> RootsStatistics:
        """Count roots and commits."""
        return RootsStatistics(len(self._roots), len(self._roots) - len(self._awake), self._commits)

    def __iter__(self) -> Iterator[str]:
        """Go through all names, those on disk too."""
        yield from list(self._roots)
        if self._store.has_home:
            for name in self._store.need_archive().names():
                if name not in self._roots and name not in self._forgotten:
                    yield name

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._roots or self.get(name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    # Private.

    def _write(
        self, name: str, conversation: Conversation, before: Conversation | None, then_sleep: bool = False
    ) -> Future[None]:
        archive = self._store.need_archive()
        chain = conversation._awake()
        version = Version(
            name,
            conversation._head,
            chain,
            conversation._root,
            len(conversation),
            conversation.size,
            conversation._meta,
        )
        saved = self._saved.get(name)
        if saved is not None and (saved.failed or saved.tail is not chain.tail or saved.end > chain.end):
            saved = None
        commit = Commit(archive, version, saved)
        self._saved[name] = commit.after
        conversation._line.name = name
        pending = self._pending.setdefault(name, Pending(before))
        pending.count += 1
        return archive.commit(commit, lambda: self._written(name, conversation, commit, pending, then_sleep))

    def _written(
        self, name: str, conversation: Conversation, commit: Commit, pending: Pending, then_sleep: bool
    ) -> None:
        pending.count -= 1
        failed = commit.after.failed
        if failed:
            self._saved.pop(name, None)
        else:
            pending.before = conversation
        if pending.count == 0 and self._pending.get(name) is pending:
            del self._pending[name]
            # What has failed may have been handed in again: the last of them decides.
            if self._roots.get(name) is not pending.before:
                self._go_back(name, pending.before)
            if pending.is_released and not failed:
                self._let_go(name)
        chain = conversation._chain
        if then_sleep and not failed and chain is not None and not chain.tail.touched:
            self.put_to_sleep(conversation, name)

    def _go_back(self, name: str, before: Conversation | None) -> None:
        self._let_go(name)
        if before is not None:
            self._roots[name] = before
            if not before.is_asleep:
                self._stays_awake(name)

    def _stays_awake(self, name: str) -> None:
        self._awake.pop(name, None)
        self._awake[name] = self._round

    def _let_go(self, name: str) -> Conversation | None:
        self._awake.pop(name, None)
        self._saved.pop(name, None)
        root = self._roots.pop(name, None)
        if root is not None and root.is_asleep:
            self._asleep[name] = root
        return root

    def _forget_over(self, name: str) -> None:
        self._forgotten[name] -= 1
        if not self._forgotten[name]:
            del self._forgotten[name]

    # Another version takes its place on disk. If it sleeps, and somebody still has it, it is read back while it is
    # there; if nobody has, what is on disk is all there was of it.
    def _before(self, name: str, next: Conversation | None) -> Conversation | None:
        """Return what a name stood for, to be replaced; None for nothing, or what sleeps and nobody holds."""
        before = self._roots.get(name)
        if before is None or (before.is_asleep and before is not next):
            del before
            root = self._let_go(name)
            del root
            # Whoever still has it holds it; this does not.
            before = self._asleep.get(name)
        if before is not None and before is not next and before.is_asleep:
            try:
                before.wake()
            except StoreError:
                self._roots[name] = before
                raise
        return before

    def _refuse_foreign(self, name: str, conversation: Conversation) -> None:
        store = self._store
        if conversation.store is not store and (store.has_home or store.can_spill):
            raise StoreError(
                f"{conversation!r} is kept in another store and cannot be committed as {name!r} here. Make a copy: "
                "Conversation(store, c.system, c.tools, c.meta).extend(c)."
            )

    def _stub_of(self, name: str, manifest: Manifest) -> Conversation:
        from avm.memory.conversation import Conversation

        shelf = self._store.shelf
        head = Head.of(self._store, self._known(manifest.system), self._known(manifest.tools))
        stub = Conversation._stub(
            head,
            shelf.begin_line(manifest.size),
            name,
            manifest.root,
            manifest.length,
            manifest.size,
            manifest.meta,
        )
        return stub

    def _known(self, known: Known | None) -> Blob | None:
        return self._store.shelf.cold_blob(*known) if known is not None else None

    def _manifest_of(self, conversation: Conversation) -> Manifest:
        name = conversation._line.name
        archive = self._store.need_archive()
        manifest = archive.manifest(name) if name is not None else None
        if manifest is None or manifest.root != conversation._root:
            found = "it is not there any more" if manifest is None else "another version has taken its place"
            raise MissingBlob(
                f"conversation {name!r} (root {conversation._root[:4].hex()}) cannot be read back from {archive.path}: "
                f"{found}. Keep a conversation awake that is to outlive its name."
            )
        return manifest

    def _restore(self, conversation: Conversation, fetched: Fetched, began: float) -> Chain:
        store = self._store
        store.shelf.room(fetched.size + fetched.size // 4 + 2000)
        chain, saved = restore(store.shelf, store.need_archive(), fetched)
        conversation._chain = chain
        line = conversation._line
        store.shelf.account.wake(line)
        name = line.name
        if name is not None and self._roots.get(name) is conversation:
            self._saved[name] = saved
            self._stays_awake(name)
        store.shelf.account.wakes.add(time.perf_counter() - began)
        return chain

    def _is_here(self, key: bytes) -> bool:
        return self._store.shelf.find_page(key) is not None
