"""A supervised pipeline: researcher, writer, critic. Each works on what the one before has made, so under rest_for_one
a writer who fails takes the critic along, and the researcher goes on."""

from __future__ import annotations

import asyncio

from avm import VM, Agent, ChildSpec, Request, child, event, on, pipeline, run, supervisor
from avm.actors import Report
from avm.io import ModelRequest, ScriptedProvider
from avm.supervision import ProgressReport


@event
class Page:
    text: str


@event
class Draft(Request[Page]):
    text: str


@event
class Notes(Request[Draft]):
    text: str


@event
class Topic(Request[Notes]):
    name: str


class Researcher(Agent):
    @on(Topic)
    async def research(self, topic: Topic) -> Notes:
        return Notes(await self.complete(f"Collect facts about {topic.name}"))


class Writer(Agent):
    @on(Notes)
    async def write(self, notes: Notes) -> Draft:
        return Draft(await self.complete(f"Write it up: {notes.text}"))


class Critic(Agent):
    @on(Draft)
    async def review(self, draft: Draft) -> Page:
        return Page(await self.complete(f"Polish this: {draft.text}"))


def newsroom() -> ChildSpec:
    staff = [child("researcher", Researcher), child("writer", Writer), child("critic", Critic)]
    return supervisor("newsroom", strategy="rest_for_one", children=staff)


def model(request: ModelRequest) -> str:
    # What the scripted provider says: each task adds a word to what it was given.
    task, _, rest = next(request.history())["content"].partition(": ")
    return f"{task.split()[0].lower()}({rest or task.split()[-1]})"


async def main() -> None:
    started: asyncio.Queue[str] = asyncio.Queue()

    def watch(report: Report) -> None:
        if isinstance(report, ProgressReport):
            started.put_nowait(str(report))

    async with VM(newsroom(), provider=ScriptedProvider(model)) as vm:
        desk = pipeline(vm["researcher"], vm["writer"], vm["critic"], limit=4)
        async for page in desk(Topic(name) for name in ("actors", "mailboxes", "supervisors")):
            print(page.text)
        vm.kernel.observers.append(watch)
        vm.kill("writer")
        print("after a kill of the writer:", await started.get(), await started.get(), sep="\n")


if __name__ == "__main__":
    run(main)
