"""A program for other processes: runs a simulation of nearly everything and prints its trace."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from avm import Actor, Agent, Say, child, dynamic_supervisor, event, on, start_child, supervisor, tool
from avm.io import ModelRequest, ScriptedProvider
from avm.io.providers import Latency
from avm.testing import simulate
from avm.testing.faults import ClockStep, Crash, Fault, Kill, ModelFails, ModelSlow, ToolFails


@event
class Work:
    """Something to do, with a set in it."""

    words: frozenset[str]


@event
class Many:
    """Do several things at a time."""

    n: int


class Worker(Actor):
    """Starts tasks, keeps them in a set, and goes through them in its order."""

    @on(Many)
    async def many(self, order: Many) -> None:
        tasks = {asyncio.ensure_future(asyncio.sleep(self.random.random() * 3, n)) for n in range(order.n)}
        done, _ = await asyncio.wait(tasks)
        for task in done:
            self.tell(self.ref, Work(frozenset({f"word {task.result()}", "another", "third"})))

    @on(Work)
    def work(self, work: Work) -> None:
        self.publish("news", work)


@tool
def shout(text: str) -> str:
    """Say it louder."""
    return text.upper()


class Writer(Agent):
    """Calls a tool at every other turn."""

    model, tools = "simulated", [shout]


def answer(request: ModelRequest) -> str | dict[str, Any]:
    """Call the tool after a user's message, and tell its result."""
    last = list(request.history())[-1]
    if last["role"] == "user" and len(last["content"]) % 2:
        call = {"id": f"call-{request.position}", "name": "shout", "arguments": '{"text": "hello"}'}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    return f"You said {last['content']}"


def main(seed: int) -> None:
    """Run it."""
    children = [
        *(child(f"writer{n}", Writer) for n in range(4)),
        *(child(f"worker{n}", Worker) for n in range(4)),
        dynamic_supervisor("pool", max_restarts=50, max_seconds=60),
    ]
    tree = supervisor("all", strategy="one_for_one", max_restarts=100, max_seconds=60, children=children)
    faults: list[Fault] = [
        Crash("worker1", wait=1),
        Kill("worker2", event=3),
        ModelFails(call=3, how="rate_limited", retry_after=2.0),
        ModelSlow(call=5, seconds=7.0),
        ToolFails(call=1),
        ClockStep(at=20.0, seconds=60.0),
    ]
    provider = ScriptedProvider(answer, latency=Latency(0.2, 0.5), seed=seed)
    with simulate(tree, seed=seed, provider=provider, faults=faults) as sim:
        for n in range(4):
            sim.kernel.tell(f"all/worker{n}", Many(5))
        sim.run(start_child(sim.ref("pool"), child("extra", Worker)))
        sim.run(_talk(sim))
        sim.advance(100)
    sys.stdout.write(sim.trace.text())


async def _talk(sim: Any) -> None:
    async def say(n: int) -> None:
        for text in ("even", "odd", "other"):
            try:
                await sim.vm.ask(f"all/writer{n}", Say(text))
            except Exception as error:
                sim.trace.add("note", None, f"writer{n}: {type(error).__name__}")

    await asyncio.gather(*(say(n) for n in range(4)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
