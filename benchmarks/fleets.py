"""What fleets of agents take of memory, in a process of its own; `memory.py` runs it and reads its line of JSON.

python fleets.py avm FILE                   conversations in a store, all warm at the end
python fleets.py plain FILE                 plain dicts
python fleets.py hashed FILE                each message by hash, with zstd
python fleets.py avm-readers FILE PROMPT    actors in a VM that each read PROMPT and their line of FILE
python fleets.py asyncio-readers FILE PROMPT     tasks with objects that do so

FILE has a line of JSON for each agent and is read one line at a time, so that nothing is left of the reading. The bytes
are those of the resident size, after a full collection and malloc_trim on every side, less those of the process when
it had imported everything and had no agent yet.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cast import QUESTION, Question, machine
from histories import History
from resident import rss
from rivals import HashPerMessage, PlainDicts

from avm.actors import Actor, on
from avm.memory import Conversation, Store
from avm.vm.run import loop_factory

AGENTS_A_SECOND = 50
"""How many agents come in one second of the store's clock."""

REST = 30
"""Seconds of its clock after which a store has compressed everything it ever will."""


def grow(store: Store, histories: Iterable[History]) -> list[Conversation]:
    """Put conversations into a store as a fleet brings them, then leave it alone until all is warm."""
    now = 0.0
    kept: list[Conversation] = []
    for number, history in enumerate(histories, 1):
        kept.append(Conversation(store, history.system, history.tools).extend(history.messages))
        if not number % AGENTS_A_SECOND:
            now += 1.0
            store.compress_idle(now)
    let_cool(store, now)
    return kept


def let_cool(store: Store, now: float = 0.0) -> None:
    """Let time pass until a store has nothing left to compress."""
    for second in range(1, REST + 1):
        store.compress_idle(now + second)


def settled() -> int:
    """Return the resident bytes, when the collector and malloc have given back what they can."""
    rss()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return rss()


def of_store(path: Path) -> dict[str, float]:
    """Measure conversations in a store."""
    store = Store()
    before = settled()
    kept = grow(store, (History(**json.loads(line)) for line in _lines(path)))
    grown = settled() - before
    account = store.statistics()
    return {"agents": len(kept), "bytes": grown, "account": account.account_bytes}


def of_rival(path: Path, rival: PlainDicts | HashPerMessage) -> dict[str, float]:
    """Measure another way to hold the same."""
    before = settled()
    for line in _lines(path):
        rival.keep(line)
    return {"agents": len(rival.agents), "bytes": settled() - before}


class Reader(Actor):
    """Reads the prompt and its own history by itself, as an agent does that knows of no other.

    Args:
        at: where its line begins.
    """

    def __init__(self, store: Store, prompt: str, path: str, at: int) -> None:
        found = read_line(path, at)
        self.conversation = Conversation(store, Path(prompt).read_text()).extend(found["messages"])

    @on(Question)
    async def answer(self, question: Question) -> int:
        return question.n


class Plain:
    """The same without avm: an object with its texts and dicts, and a task that waits for its queue."""

    def __init__(self, prompt: str, path: str, at: int) -> None:
        self.system = Path(prompt).read_text()
        self.messages = read_line(path, at)["messages"]
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        self.task = asyncio.create_task(self.run())

    async def run(self) -> None:
        """Answer, for ever."""
        while True:
            (await self.inbox.get()).set_result(1)


def read_line(path: str, at: int) -> dict[str, Any]:
    """Read and parse the line that begins at a place of a file."""
    with open(path, "rb") as file:
        file.seek(at)
        found: dict[str, Any] = json.loads(file.readline())
    return found


async def of_readers(path: str, prompt: str) -> dict[str, float]:
    """Measure actors that load for themselves: right after loading, and when the VM's keeper has been round."""
    async with machine() as vm:
        store = vm.store
        assert store is not None
        await vm.ask(await vm.spawn(_Warm), QUESTION)
        before = settled()
        refs = [await vm.spawn(Reader, store, prompt, path, at) for at in _offsets(path)]
        for ref in refs:
            await vm.ask(ref, QUESTION)
        loaded = settled() - before
        await _wait_cool(store)
        return {"agents": len(refs), "loaded": loaded, "bytes": settled() - before}


async def of_plain_readers(path: str, prompt: str) -> dict[str, float]:
    """Measure asyncio objects that load for themselves."""
    before = settled()
    agents = [Plain(prompt, path, at) for at in _offsets(path)]
    for agent in agents:
        reply = asyncio.get_running_loop().create_future()
        agent.inbox.put_nowait(reply)
        await reply
    return {"agents": len(agents), "bytes": settled() - before}


class _Warm(Actor):
    """Stands for the first actor of a VM, so that what comes once is not counted to the agents."""

    @on(Question)
    async def answer(self, question: Question) -> int:
        return question.n


async def _wait_cool(store: Store) -> None:
    account, same = 0, 0
    for _ in range(60):
        await asyncio.sleep(1.0)
        found = store.statistics().account_bytes
        same = same + 1 if found == account else 0
        account = found
        # The keeper has patience for five seconds with what makes no full batch.
        if same == 8:
            return


def _lines(path: Path) -> Iterable[bytes]:
    with path.open("rb") as file:
        yield from file


def _offsets(path: str) -> list[int]:
    offsets = [0]
    with open(path, "rb") as file:
        offsets.extend(file.tell() for _ in iter(file.readline, b""))
    return offsets[:-1]


def main(side: str, path: str, prompt: str = "") -> None:
    """Measure and print; then leave without taking everything down, which is not what is measured."""

    async def readers() -> None:
        work = of_readers if side == "avm-readers" else of_plain_readers
        print(json.dumps(await work(path, prompt)), flush=True)
        os._exit(0)

    if side.endswith("-readers"):
        with asyncio.Runner(loop_factory=loop_factory("auto")) as runner:
            runner.run(readers())
    elif side == "avm":
        print(json.dumps(of_store(Path(path))))
    else:
        print(json.dumps(of_rival(Path(path), {"plain": PlainDicts, "hashed": HashPerMessage}[side]())))
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
