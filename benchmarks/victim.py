"""A process that works on a home until it is killed: `python benchmarks/victim.py HOME TEXTS LOG SEED COLD`.

Each line of the log is one `write` of its own, so that what was written is there when the process is not any more:

    ready                          the home is open
    handed NUMBER NAME DIGEST      a version, or "-" for none, was handed in under a name
    done NUMBER                    it was acknowledged
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from blake3 import blake3

from avm.memory import Conversation, Store

NAMES = 24
LIMIT = 700_000
"""Bytes of RAM: a part of what the names stand for, so that something is always on its way to disk."""


def digest(conversation: Conversation) -> str:
    """Return the digest of all that can be read of a conversation."""
    parts = (
        conversation.messages(),
        conversation.system,
        conversation.tools,
        conversation.meta,
        conversation.size,
        conversation.root.bytes.hex(),
    )
    return blake3(json.dumps(parts).encode()).hexdigest()


class Victim:
    """Does what comes into its mind, and writes down what it was promised."""

    def __init__(self, home: Path, texts: list[Any], log: Path, seed: int, cold: str) -> None:
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.store = Store.open(home, LIMIT, cold=cold)
        self.texts = texts
        self.chance = random.Random(seed)
        self.number = 0
        self.now = 0.0

    def work(self) -> None:
        """Go on until the end."""
        self.say("ready")
        what = [self.grow, self.begin, self.fork, self.rewind, self.forget, self.spill, self.sweep, self.age]
        while True:
            self.chance.choices(what, (30, 4, 4, 3, 3, 3, 4, 6))[0]()

    def say(self, text: str) -> None:
        """Write a line to the log, whole or not at all."""
        os.write(self.log, f"{text}\n".encode())

    def name(self) -> str:
        """Choose a name."""
        return f"agent-{self.chance.randrange(NAMES)}"

    def commit(self, name: str, conversation: Conversation) -> None:
        """Commit, and sometimes wait for it."""
        self.number += 1
        number = self.number
        self.say(f"handed {number} {name} {digest(conversation)}")
        future = self.store.roots.commit(name, conversation)
        future.add_done_callback(lambda done: self.say(f"done {number}") if not done.exception() else None)
        if self.chance.random() < 0.3:
            future.result()

    def begin(self) -> None:
        """Begin a conversation with one of a few prompts."""
        system = self.texts[self.chance.randrange(5)]["content"]
        meta = {"number": self.number}
        self.commit(self.name(), Conversation.new(self.store, system, [{"name": "book"}], meta))

    def grow(self) -> None:
        """Go on with a conversation, a few commits long."""
        name = self.name()
        found = self.store.roots.get(name)
        if found is None:
            return
        if len(found) > 60:
            found = found.rewind(len(found) - 3)
        for _ in range(self.chance.randrange(1, 6)):
            found = found.append(self.chance.choice(self.texts))
            if self.chance.random() < 0.6:
                self.commit(name, found)
        self.commit(name, found)

    def fork(self) -> None:
        """Let a second name go on from where another is."""
        found = self.store.roots.get(self.name())
        if found is not None:
            self.commit(self.name(), found.fork().append(self.chance.choice(self.texts)))

    def rewind(self) -> None:
        """Take some messages back."""
        name = self.name()
        found = self.store.roots.get(name)
        if found is not None and len(found):
            self.commit(name, found.rewind(self.chance.randrange(len(found))))

    def forget(self) -> None:
        """Forget a name."""
        self.number += 1
        number, name = self.number, self.name()
        self.say(f"handed {number} {name} -")
        future = self.store.roots.forget(name)
        future.add_done_callback(lambda done: self.say(f"done {number}") if not done.exception() else None)

    def spill(self) -> None:
        """Bring to disk what is over a lower limit."""
        limit = self.store.limit
        self.store.shelf.limit = LIMIT // 3
        waiting = self.store.spill()
        self.store.shelf.limit = limit
        if waiting is not None and self.chance.random() < 0.5:
            waiting.result()

    def sweep(self) -> None:
        """Delete a slice of what nobody needs."""
        self.store.sweep()

    def age(self) -> None:
        """Let two seconds pass: compress what is idle, let sleep what can."""
        self.now += 2.0
        self.store.compress_idle(self.now)
        if self.chance.random() < 0.3:
            found = self.store.roots.get(self.name())
            if found is not None:
                found.sleep()


if __name__ == "__main__":
    HOME, TEXTS, LOG, SEED, COLD = sys.argv[1:]
    Victim(Path(HOME), json.loads(Path(TEXTS).read_text()), Path(LOG), int(SEED), COLD).work()
