"""Actors that send: ping-pong, ask, fan-in, ring and pipeline, written as a user would write them."""

from __future__ import annotations

import asyncio
from time import perf_counter

from cast import (
    BALL,
    BATCH,
    HOPS,
    PING,
    PRODUCERS,
    QUESTION,
    RING,
    Ball,
    Neighbour,
    Page,
    Ping,
    Play,
    Question,
    Work,
    bodies,
    machine,
)

from avm.actors import Actor, PendingReply, Ref, on
from avm.supervision import child, supervisor

# Ping-pong.


class Wall(Actor):
    """Gives every ball back."""

    peer: Ref

    @on(Neighbour)
    def meet(self, neighbour: Neighbour) -> None:
        self.peer = neighbour.ref


class Player(Actor):
    """Plays n balls, one after the other."""

    first: Ping | Ball = BALL
    peer: Ref
    over: PendingReply
    left = 0

    @on(Play)
    def serve(self, play: Play) -> None:
        self.left, self.peer, self.over = play.n, play.peer, self.defer()
        self.tell(self.peer, self.first)


class PingWall(Wall):
    """For messages without fields."""

    @on(Ping)
    async def hit(self, ping: Ping) -> None:
        self.tell(self.peer, ping)


class PingPlayer(Player):
    """For messages without fields."""

    first = PING

    @on(Ping)
    async def hit(self, ping: Ping) -> None:
        self.left -= 1
        if self.left:
            self.tell(self.peer, ping)
        else:
            self.over.send()


class BallWall(Wall):
    """For messages with a field."""

    @on(Ball)
    async def hit(self, ball: Ball) -> None:
        self.tell(self.peer, ball)


class BallPlayer(Player):
    """For messages with a field."""

    @on(Ball)
    async def hit(self, ball: Ball) -> None:
        self.left -= 1
        if self.left:
            self.tell(self.peer, ball)
        else:
            self.over.send()


class PlainWall(Wall):
    """With a plain handler."""

    @on(Ball)
    def hit(self, ball: Ball) -> None:
        self.tell(self.peer, ball)


class PlainPlayer(Player):
    """With a plain handler."""

    @on(Ball)
    def hit(self, ball: Ball) -> None:
        self.left -= 1
        if self.left:
            self.tell(self.peer, ball)
        else:
            self.over.send()


class FreshWall(Wall):
    """Gives a new ball back."""

    @on(Ball)
    async def hit(self, ball: Ball) -> None:
        self.tell(self.peer, Ball(ball.n + 1))


class FreshPlayer(Player):
    """Sends a new ball each time."""

    @on(Ball)
    async def hit(self, ball: Ball) -> None:
        self.left -= 1
        if self.left:
            self.tell(self.peer, Ball(ball.n + 1))
        else:
            self.over.send()


async def ping_pong(n: int) -> float:
    """Round trips per second between two actors with async handlers; the message has no fields."""
    return await _ping_pong(n, PingPlayer, PingWall)


async def ping_pong_field(n: int) -> float:
    """As `ping_pong`; the message has a field, which is looked at before it is sent."""
    return await _ping_pong(n, BallPlayer, BallWall)


async def ping_pong_plain(n: int) -> float:
    """As `ping_pong_field`, with plain handlers."""
    return await _ping_pong(n, PlainPlayer, PlainWall)


async def ping_pong_fresh(n: int) -> float:
    """As `ping_pong_field`, with a new event for each way."""
    return await _ping_pong(n, FreshPlayer, FreshWall)


async def _ping_pong(n: int, player: type[Player], wall: type[Wall]) -> float:
    tree = supervisor("court", children=[child("player", player), child("wall", wall)])
    async with machine(tree) as vm:
        await vm.ask("wall", Neighbour(vm["player"]))
        began = perf_counter()
        await vm.ask("player", Play(n, vm["wall"]), timeout=None)
        return n / (perf_counter() - began)


# Ask.


class Oracle(Actor):
    """Answers questions."""

    @on(Question)
    async def answer(self, question: Question) -> int:
        return question.n


class PlainOracle(Actor):
    """Answers questions in a plain handler."""

    @on(Question)
    def answer(self, question: Question) -> int:
        return question.n


class Pupil(Actor):
    """Asks n questions, one after the other."""

    def __init__(self, oracle: str) -> None:
        self.oracle = oracle

    @on(Work)
    async def learn(self, work: Work) -> float:
        oracle = self.whereis(self.oracle)
        assert oracle is not None
        began = perf_counter()
        for _ in range(work.n):
            await self.ask(oracle, QUESTION)
        return perf_counter() - began


async def ask_inside(n: int) -> float:
    """Asks per second from within a handler, to an async handler."""
    return await _ask_inside(n, Oracle)


async def ask_inside_plain(n: int) -> float:
    """Asks per second from within a handler, to a plain one."""
    return await _ask_inside(n, PlainOracle)


async def ask_outside(n: int) -> float:
    """Asks per second from outside of actors, to an async handler."""
    return await _ask_outside(n, Oracle)


async def ask_outside_plain(n: int) -> float:
    """Asks per second from outside of actors, to a plain handler."""
    return await _ask_outside(n, PlainOracle)


async def _ask_inside(n: int, oracle: type[Actor]) -> float:
    tree = supervisor(
        "school", children=[child("oracle", oracle, name="oracle"), child("pupil", Pupil, "oracle")]
    )
    async with machine(tree) as vm:
        return n / await vm.ask("pupil", Work(n), timeout=None)


async def _ask_outside(n: int, oracle: type[Actor]) -> float:
    async with machine(supervisor("school", children=[child("oracle", oracle)])) as vm:
        ref = vm["oracle"]
        began = perf_counter()
        for _ in range(n):
            await vm.ask(ref, QUESTION)
        return n / (perf_counter() - began)


# Fan-in.


class Counter(Actor):
    """Expects n messages."""

    over: PendingReply
    left = 0

    @on(Work)
    def expect(self, work: Work) -> None:
        self.left, self.over = work.n, self.defer()


class Consumer(Counter):
    """Takes messages without fields, with a plain handler, since nothing in it waits."""

    @on(Ping)
    def take(self, ping: Ping) -> None:
        self.left -= 1
        if not self.left:
            self.over.send(0.0)


class AsyncConsumer(Counter):
    """Takes messages with a field, with an async handler."""

    @on(Ball)
    async def take(self, ball: Ball) -> None:
        self.left -= 1
        if not self.left:
            self.over.send(0.0)


class Producer(Actor):
    """Sends n messages; lets others run between batches."""

    def __init__(self, message: Ping | Ball) -> None:
        self.message = message

    @on(Play)
    async def produce(self, play: Play) -> None:
        consumer, message = play.peer, self.message
        for sent in range(play.n):
            self.tell(consumer, message)
            if not (sent + 1) % BATCH:
                await asyncio.sleep(0)


async def fan_in(n: int) -> float:
    """Messages per second from 100 producers to one consumer; all together send n."""
    return await _fan_in(n, Consumer, PING)


async def fan_in_async(n: int) -> float:
    """As `fan_in`; the consumer's handler is async, and the message has a field."""
    return await _fan_in(n, AsyncConsumer, BALL)


async def _fan_in(n: int, consumer_class: type[Counter], message: Ping | Ball) -> float:
    each = n // PRODUCERS
    producers = [child(f"producer{i}", Producer, message) for i in range(PRODUCERS)]
    async with machine(supervisor("works", children=[child("consumer", consumer_class), *producers])) as vm:
        consumer = vm["consumer"]
        refs = [vm[spec.id] for spec in producers]
        play = Play(each, consumer)
        began = perf_counter()
        over = asyncio.create_task(vm.ask(consumer, Work(each * PRODUCERS), timeout=None))
        await asyncio.sleep(0)
        for ref in refs:
            vm.tell(ref, play)
        await over
        return each * PRODUCERS / (perf_counter() - began)


# Ring.


class Member(Actor):
    """Hands the token on."""

    following: Ref

    @on(Neighbour)
    def meet(self, neighbour: Neighbour) -> None:
        self.following = neighbour.ref

    @on(Ball)
    async def hand_on(self, token: Ball) -> None:
        self.tell(self.following, token)


class Head(Member):
    """The member that counts rounds."""

    over: PendingReply
    rounds = 0

    @on(Work)
    def begin(self, work: Work) -> None:
        self.rounds, self.over = work.n, self.defer()
        self.tell(self.following, BALL)

    @on(Ball)
    async def hand_on(self, token: Ball) -> None:
        self.rounds -= 1
        if self.rounds:
            self.tell(self.following, token)
        else:
            self.over.send(0.0)


async def ring(n: int) -> float:
    """Messages per second, one token that goes round 1,000 actors."""
    rounds = max(1, n // RING)
    members = [child(f"member{i}", Head if i == 0 else Member) for i in range(RING)]
    async with machine(supervisor("ring", children=members)) as vm:
        refs = [vm[spec.id] for spec in members]
        for ref, following in zip(refs, [*refs[1:], refs[0]], strict=True):
            await vm.ask(ref, Neighbour(following))
        began = perf_counter()
        await vm.ask(refs[0], Work(rounds), timeout=None)
        return rounds * RING / (perf_counter() - began)


# Pipeline.


class Hop(Actor):
    """Hands pages on."""

    following: Ref

    @on(Neighbour)
    def meet(self, neighbour: Neighbour) -> None:
        self.following = neighbour.ref

    @on(Page)
    async def hand_on(self, page: Page) -> None:
        self.tell(self.following, page)


class Feeder(Hop):
    """Sends the pages, 64 at a time, and takes them back at the end of the line."""

    over: PendingReply

    def __init__(self, pages: int) -> None:
        self.items = iter(bodies(pages))
        self.left = pages

    @on(Work)
    def begin(self, work: Work) -> None:
        self.over = self.defer()
        for _ in range(min(self.left, work.n)):
            self.tell(self.following, Page(next(self.items)))

    @on(Page)
    async def hand_on(self, page: Page) -> None:
        self.left -= 1
        body = next(self.items, None)
        if body is not None:
            self.tell(self.following, Page(body))
        elif not self.left:
            self.over.send(0.0)


async def pipeline(n: int) -> float:
    """Items per second through 10 actors, with bodies of 100 KB that are all different."""
    hops = [child(f"hop{i}", Hop) for i in range(HOPS)]
    async with machine(supervisor("line", children=[child("feeder", Feeder, n), *hops])) as vm:
        refs = [vm["feeder"], *(vm[spec.id] for spec in hops)]
        for ref, following in zip(refs, [*refs[1:], refs[0]], strict=True):
            await vm.ask(ref, Neighbour(following))
        began = perf_counter()
        await vm.ask("feeder", Work(BATCH), timeout=None)
        return n / (perf_counter() - began)
