"""The disk: waking what sleeps there, durable commits, and how much of it a growing conversation takes.

Everything here needs `Store.open`; `IS_READY` tells whether this avm has it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing
from functools import partial
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any

import zstandard
from fleets import grow
from histories import History, compact
from measure import vm_collector
from rivals import GroupedSqlite

from avm.memory import Conversation, Message, Store

IS_READY = hasattr(Store, "open")
NOT_READY = "this avm has no Store.open yet"

open_store: Callable[..., Any] = getattr(Store, "open", Store)

Turn = tuple[str, str]


def wakes(home: Path, mix: Sequence[History], chosen: Sequence[int], rounds: int) -> Iterator[list[float]]:
    """Commit a mix, then send some of its conversations to sleep and wake them; yield each round's seconds.

    The file is in the system's cache.
    """
    store = open_store(home)
    kept = grow(store, (history.copy() for history in mix))
    names = [f"agent-{number}" for number in range(len(kept))]
    for future in [store.roots.commit(name, each) for name, each in zip(names, kept, strict=True)]:
        future.result()
    sleepers: list[Any] = [kept[number] for number in chosen]
    roots = [each.root for each in sleepers]
    for _ in range(rounds):
        took = []
        for each in sleepers:
            _send_to_sleep(store, each)
        for each in sleepers:
            began = perf_counter()
            each.wake()
            took.append(perf_counter() - began)
        yield took
    assert [each.root for each in sleepers] == roots
    assert [each.messages() for each in sleepers] == [mix[number].messages for number in chosen]
    store.close()


# The store may take in only at its next step that a commit is done, and until then the conversation stays awake.
def _send_to_sleep(store: Store, conversation: Any) -> None:
    for _ in range(1000):
        if conversation.sleep():
            return
        store.statistics()
        time.sleep(0.001)
    raise AssertionError("a committed conversation does not go to sleep")


def first_uses(home: Path, names: Sequence[str]) -> list[float]:
    """Open a store again, get committed conversations by name and render them; return the seconds of each."""
    store = open_store(home)
    took = []
    for name in names:
        began = perf_counter()
        found = store.roots.get(name)
        assert found is not None, f"{name} was committed and is not there"
        found.render()
        took.append(perf_counter() - began)
    store.close()
    return took


def bare_reads(path: Path, histories: Sequence[History]) -> list[float]:
    """Read the same conversations from SQLite, each a row of its own, compressed; return the seconds of each."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE conversation (name TEXT PRIMARY KEY, data BLOB)")
        rows = [
            (f"agent-{number}", zstandard.compress(compact(history.messages)))
            for number, history in enumerate(histories)
        ]
        database.executemany("INSERT INTO conversation VALUES (?, ?)", rows)
        database.commit()
        took = []
        for name, _ in rows:
            began = perf_counter()
            found = database.execute("SELECT data FROM conversation WHERE name = ?", (name,)).fetchone()
            zstandard.decompress(found[0])
            took.append(perf_counter() - began)
    return took


def commits(home: Path, histories: Sequence[History], rate: int, seconds: float) -> list[float]:
    """Commit a message more at a time, `rate` a second, whatever becomes of the earlier ones; return the latencies.

    A latency counts from when the commit was due, so that a stall is seen by all who wait behind it.
    """
    store = open_store(home)
    kept = grow(store, (history.copy() for history in histories))
    for future in [store.roots.commit(f"agent-{number}", each) for number, each in enumerate(kept)]:
        future.result()
    texts = cycle([message for history in histories for message in history.messages])
    turn = cycle(range(len(kept)))

    def commit() -> Future[Any]:
        number = next(turn)
        kept[number] = kept[number].append(next(texts))
        future: Future[Any] = store.roots.commit(f"agent-{number}", kept[number])
        return future

    try:
        # As in a VM: else the collector walks through all that the benchmark holds, again and again.
        with vm_collector():
            return offered(commit, rate, seconds)
    finally:
        store.close()


def bare_commits(path: Path, messages: Sequence[Message], rate: int, seconds: float) -> list[float]:
    """Do the same with rows of SQLite that hold nothing but the new message."""
    rival = GroupedSqlite(path, "FULL")
    texts = cycle(messages)
    try:
        with vm_collector():
            return offered(lambda: rival.put(compact(next(texts))), rate, seconds)
    finally:
        rival.close()


def offered(commit: Callable[[], Future[Any]], rate: int, seconds: float) -> list[float]:
    """Call `commit` at even distances, never waiting for one to be done."""
    took: list[float] = []

    def done(due: float, future: Future[Any]) -> None:
        took.append(perf_counter() - due)

    futures = []
    start = perf_counter()
    for number in range(int(rate * seconds)):
        due = start + number / rate
        while (wait := due - perf_counter()) > 0:
            time.sleep(wait)
        future = commit()
        future.add_done_callback(partial(done, due))
        futures.append(future)
    for future in futures:
        future.result()
    # A result is there a moment before the callback is called.
    while len(took) < len(futures):
        time.sleep(0.001)
    return took


def growth(home: Path, system: str, turns: Sequence[Turn]) -> dict[str, float]:
    """Commit after each turn, waiting for it; return the bytes on disk while open, and closed."""
    store = open_store(home)
    conversation = Conversation(store, system)
    for said, reply in turns:
        conversation = conversation.append({"role": "user", "content": said})
        conversation = conversation.append({"role": "assistant", "content": reply})
        store.roots.commit("agent", conversation).result()
    opened = size(home)
    store.close()
    return {"open": opened, "bytes": size(home)}


def size(home: Path) -> int:
    """Return the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
