"""Writer: the one thread that writes to a cold store. What has come in while it wrote is its next group: one commit.

So a commit of the disk serves all who wait for one, and nobody waits for a timer: with a slow disk the groups are
large, with a quick one they are small. A group that fails is tried again one by one, so that only what cannot be
written fails.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

import attrs

from avm.errors import ColdStoreError
from avm.memory.account import Latencies
from avm.memory.cold.coldstore import Change, ColdStore

GROUP = 256
"""Writes in one commit at most: a group must not hold up those behind it for long."""

GROUP_BYTES = 4 << 20
"""Bytes of values in one commit, but for those of a single write: they are in RAM until it is done."""


class Write(Protocol):
    """Something to be written."""

    name: bytes | None
    """What it is about: `reads` says that the rows of this name, as committed, must be there; None is everything."""
    reads: bool

    def changes(self) -> Sequence[Change]:
        """Return what is to be changed. Called in the writer's thread, again if the group it was in has failed."""

    def written(self) -> None:
        """Take note that it is on disk. Called in the writer's thread."""

    def failed(self) -> None:
        """Take note that it could not be written. Called in the writer's thread."""


@attrs.frozen(slots=True)
class Entry:
    """A write that waits, and who waits for it."""

    write: Write
    future: Future[None]
    then: Callable[[], None] | None
    began: float

    def over(self, error: Exception | None) -> None:
        """Tell that it was written, or why not."""
        if self.then is not None:
            self.then()
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)


class Writer:
    """Writes in a thread of its own, from when it is made until it is closed."""

    def __init__(self, cold: ColdStore) -> None:
        self.latencies = Latencies()
        self._cold = cold
        self._waiting: deque[Entry] = deque()
        self._change = threading.Condition()
        self._is_closing = False
        self._refusal: ColdStoreError | None = None
        # Why something that was handed in before it was closed could not be written.
        self._unwritten: Exception | None = None
        self._thread = threading.Thread(target=self._work, name="avm-writer", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Writes that wait."""
        return len(self._waiting)

    def submit(self, write: Write, then: Callable[[], None] | None = None) -> Future[None]:
        """Have something written; the future is done when it is on disk.

        Args:
            then: called in the writer's thread when it is over, well or not, before those who wait hear of it.

        Raises:
            ColdStoreError: it is closed.
        """
        future: Future[None] = Future()
        # A write cannot be taken back: those behind it may build on it.
        future.set_running_or_notify_cancel()
        with self._change:
            self.require()
            if self._is_closing:
                raise ColdStoreError(
                    f"{self._cold.path} is closed; nothing can be written to it.", self._cold.path
                )
            self._waiting.append(Entry(write, future, then, time.perf_counter()))
            self._change.notify()
        return future

    def require(self) -> None:
        """Raise the error of `refuse`, if there is one."""
        if self._refusal is not None:
            raise self._refusal

    def refuse(self, error: ColdStoreError) -> None:
        """Take nothing any more: whoever hands something in gets this error."""
        self._refusal = error

    def close(self) -> None:
        """Write what waits, and end the thread. May be called again.

        Raises:
            ColdStoreError: not all that was committed could be written.
        """
        with self._change:
            self._is_closing = True
            self._change.notify()
        self._thread.join()
        error, self._unwritten = self._unwritten, None
        if error is not None:
            path = self._cold.path
            raise ColdStoreError(
                f"{path} was closed, and not all that was committed is in it: {error}", path
            ) from error

    def _work(self) -> None:
        while True:
            with self._change:
                while not self._waiting and not self._is_closing:
                    self._change.wait()
                if not self._waiting:
                    return
            self._write(self._next_group())

    # A write that reads what is on disk must not be in one group with those whose outcome it needs.
    def _next_group(self) -> list[Entry]:
        group = [self._waiting.popleft()]
        names = {group[0].write.name}
        while self._waiting and len(group) < GROUP and None not in names:
            write = self._waiting[0].write
            if write.name is None or (write.reads and write.name in names):
                break
            names.add(write.name)
            group.append(self._waiting.popleft())
        return group

    def _write(self, group: list[Entry]) -> None:
        waiting = deque(group)
        while waiting:
            part: list[Entry] = []
            try:
                self._cold.commit(self._changes(waiting, part))
            except Exception as error:
                self._write_apart(part, error)
            else:
                self._done(part)

    def _changes(self, waiting: deque[Entry], part: list[Entry]) -> list[Change]:
        """Return the changes of those that wait, until they are many bytes; moves them to `part`."""
        changes: list[Change] = []
        size = 0
        while waiting and size < GROUP_BYTES:
            part.append(waiting.popleft())
            made = part[-1].write.changes()
            changes.extend(made)
            size += sum([len(value) for _, _, value in made if value is not None])
        return changes

    def _write_apart(self, part: list[Entry], error: Exception) -> None:
        """Find out what it was that could not be written."""
        if len(part) > 1:
            for entry in part:
                self._write([entry])
            return
        for entry in part:
            entry.write.failed()
            # Content and sweeps have no name; nobody was promised that they are written.
            if self._is_closing and entry.write.name:
                self._unwritten = error
            entry.over(error)

    def _done(self, part: list[Entry]) -> None:
        ended = time.perf_counter()
        for entry in part:
            entry.write.written()
            self.latencies.add(ended - entry.began)
            entry.over(None)
