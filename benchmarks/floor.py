"""The floor: the same work on plain asyncio, as a good asyncio programmer would write it.

One task for each actor, with an `asyncio.Queue` as its mailbox; unbounded queues and `put_nowait`, which is the fastest
way to use them. Nothing is supervised, nothing is checked and nothing times out here, which favours the floor.
"""

from __future__ import annotations

import asyncio
from time import perf_counter
from typing import Any

from cast import BALL, BATCH, HOPS, PRODUCERS, QUESTION, RING, Ball, Page, bodies

Inbox = asyncio.Queue[Any]


async def ping_pong(n: int) -> float:
    """Round trips per second of one message between two tasks."""
    return await _ping_pong(n, fresh=False)


async def ping_pong_fresh(n: int) -> float:
    """As `ping_pong`, with a new message for each way."""
    return await _ping_pong(n, fresh=True)


async def _ping_pong(n: int, *, fresh: bool) -> float:
    here: Inbox = asyncio.Queue()
    there: Inbox = asyncio.Queue()

    async def give_back() -> None:
        while True:
            ball = await there.get()
            here.put_nowait(Ball(ball.n + 1) if fresh else ball)

    async def play() -> None:
        ball = BALL
        for _ in range(n):
            there.put_nowait(Ball(ball.n + 1) if fresh else ball)
            ball = await here.get()

    other = asyncio.create_task(give_back())
    began = perf_counter()
    await asyncio.create_task(play())
    took = perf_counter() - began
    await _end([other])
    return n / took


async def ask(n: int) -> float:
    """Requests per second, one after the other: the reply comes through a future."""
    inbox: Inbox = asyncio.Queue()

    async def serve() -> None:
        while True:
            question, reply = await inbox.get()
            reply.set_result(question.n)

    async def client() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(n):
            reply = loop.create_future()
            inbox.put_nowait((QUESTION, reply))
            await reply

    server = asyncio.create_task(serve())
    began = perf_counter()
    await asyncio.create_task(client())
    took = perf_counter() - began
    await _end([server])
    return n / took


async def fan_in(n: int) -> float:
    """Messages per second from 100 producers to one consumer; all together send n."""
    inbox: Inbox = asyncio.Queue()
    each = n // PRODUCERS

    async def produce() -> None:
        for sent in range(each):
            inbox.put_nowait(BALL)
            if not (sent + 1) % BATCH:
                await asyncio.sleep(0)

    async def consume() -> None:
        for _ in range(each * PRODUCERS):
            await inbox.get()

    began = perf_counter()
    async with asyncio.TaskGroup() as group:
        group.create_task(consume())
        for _ in range(PRODUCERS):
            group.create_task(produce())
    return each * PRODUCERS / (perf_counter() - began)


async def ring(n: int) -> float:
    """Messages per second, one token that goes round 1,000 tasks."""
    inboxes: list[Inbox] = [asyncio.Queue() for _ in range(RING)]
    over = asyncio.get_running_loop().create_future()
    left = n

    async def member(inbox: Inbox, following: Inbox) -> None:
        nonlocal left
        while True:
            token = await inbox.get()
            left -= 1
            if left > 0:
                following.put_nowait(token)
            elif not over.done():
                over.set_result(None)

    members = [asyncio.create_task(member(inbox, inboxes[(i + 1) % RING])) for i, inbox in enumerate(inboxes)]
    await asyncio.sleep(0)
    began = perf_counter()
    inboxes[0].put_nowait(BALL)
    await over
    took = perf_counter() - began
    await _end(members)
    return n / took


async def spawn(n: int) -> float:
    """Tasks with a queue started per second, all waiting for their first message at the end."""
    tasks, inboxes = [], []
    began = perf_counter()
    for _ in range(n):
        inbox: Inbox = asyncio.Queue()
        inboxes.append(inbox)
        tasks.append(asyncio.create_task(wait_for_ever(inbox)))
    await asyncio.sleep(0)
    took = perf_counter() - began
    await _end(tasks)
    return n / took


async def start_children(n: int) -> float:
    """Milliseconds to start n tasks in a TaskGroup."""
    return (await _children(n))[0] * 1e3


async def stop_children(n: int) -> float:
    """Milliseconds to cancel the n tasks of a TaskGroup and wait for all of them."""
    return (await _children(n))[1] * 1e3


async def _children(n: int) -> tuple[float, float]:
    began = perf_counter()
    async with asyncio.TaskGroup() as group:
        inboxes: list[Inbox] = [asyncio.Queue() for _ in range(n)]
        tasks = [group.create_task(wait_for_ever(inbox)) for inbox in inboxes]
        await asyncio.sleep(0)
        up = perf_counter()
        for task in tasks:
            task.cancel()
    return up - began, perf_counter() - up


async def crash(n: int) -> float:
    """Failures per second of a task that is started anew each time by whoever sees it fail."""
    failed: asyncio.Queue[asyncio.Task[None]] = asyncio.Queue()

    async def fragile(inbox: Inbox) -> None:
        await inbox.get()
        raise RuntimeError("boom")

    async def supervise() -> None:
        for _ in range(n):
            inbox: Inbox = asyncio.Queue()
            task = asyncio.create_task(fragile(inbox))
            task.add_done_callback(failed.put_nowait)
            inbox.put_nowait(BALL)
            ended = await failed.get()
            ended.exception()

    began = perf_counter()
    await asyncio.create_task(supervise())
    return n / (perf_counter() - began)


async def pipeline(n: int) -> float:
    """Items per second through 10 tasks; a body goes by reference, nothing is hashed or kept."""
    inboxes: list[Inbox] = [asyncio.Queue() for _ in range(HOPS)]
    done: Inbox = asyncio.Queue()
    items = bodies(n)

    async def hop(inbox: Inbox, following: Inbox) -> None:
        while True:
            following.put_nowait(await inbox.get())

    async def feed() -> None:
        for sent, body in enumerate(items):
            if sent >= BATCH:
                await done.get()
            inboxes[0].put_nowait(Page(body))
        for _ in range(min(n, BATCH)):
            await done.get()

    hops = [
        asyncio.create_task(hop(inbox, following))
        for inbox, following in zip(inboxes, [*inboxes[1:], done], strict=True)
    ]
    await asyncio.sleep(0)
    began = perf_counter()
    await asyncio.create_task(feed())
    took = perf_counter() - began
    await _end(hops)
    return n / took


async def wait_for_ever(inbox: Inbox) -> None:
    """An idle task: waits for messages, answers each."""
    while True:
        question, reply = await inbox.get()
        reply.set_result(question.n)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
