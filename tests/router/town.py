"""What the tests of the router share: events, and actors that remember what they got."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from avm.actors import Actor, Kernel, Ref, Request, event, on
from avm.router import GroupChanged, Router

Run = Callable[[Coroutine[Any, Any, None]], None]


@event
class Work:
    number: int
    wait: bool = False


@event
class News:
    text: str
    extra: object = None


@event
class Echo(Request[str]):
    text: str


class Worker(Actor):
    """Does its work in order; waits for ever if told to."""

    def __init__(self) -> None:
        self.done: list[int] = []

    @on(Work)
    async def work(self, work: Work) -> None:
        if work.wait:
            await asyncio.Event().wait()
        self.done.append(work.number)


class Reader(Actor):
    """Remembers what it read, and from whom."""

    def __init__(self) -> None:
        self.read: list[object] = []
        self.senders: list[str | None] = []

    @on(News, GroupChanged)
    def take(self, news: object) -> None:
        self.read.append(news)
        self.senders.append(None if self.sender is None else self.sender.path)

    @on(Echo)
    def echo(self, echo: Echo) -> str:
        return echo.text


class Small(Reader):
    """A mailbox with room for one."""

    max_mailbox = 1


async def readers(kernel: Kernel, *ids: str, cls: type[Reader] = Reader) -> list[Ref]:
    """Start a reader for each id."""
    return [await kernel.spawn(cls, id=id) for id in ids]


def read(ref: Ref) -> list[object]:
    """What a reader has read."""
    actor: Any = ref.cell.actor
    found: list[object] = actor.read
    return found


def texts(ref: Ref) -> list[str]:
    """The texts of the news a reader has read."""
    return [news.text for news in read(ref) if isinstance(news, News)]


def router_of(kernel: Kernel) -> Router:
    """Make the router of a kernel as the VM does."""
    router = Router(kernel)
    kernel.services["router"] = router
    return router
