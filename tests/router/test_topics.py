"""Publish and subscribe: groups, topics, patterns, watches (S82-S84)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.actors import Actor, Kernel, on
from avm.actors.registry import Groups
from avm.errors import NoProc, NotJoined, SpecError
from avm.router import GroupChanged, Router, Watch
from avm.router.topics import Topics
from tests.router.town import News, Reader, Run, Small, Work, Worker, read, readers, router_of, texts


def test_subscribers_get_one_copy_for_each_subscription(run: Run) -> None:
    """S82: n times joined is n copies."""

    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)
            once, twice, never = await readers(kernel, "once", "twice", "never")
            router.subscribe("news", once)
            router.subscribe("news", twice)
            router.subscribe("news", "twice")

            assert router.publish("news", News("a")) == 3
            await kernel.idle()

            assert [texts(ref) for ref in (once, twice, never)] == [["a"], ["a", "a"], []]

    run(main())


def test_unsubscribing_removes_one_subscription_and_then_none_is_left(run: Run) -> None:
    """S82: leave removes one; leaving without being in it is NotJoined; an empty group does not exist."""

    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)
            (reader,) = await readers(kernel, "reader")
            for _ in range(2):
                router.subscribe("news.*", reader)

            router.unsubscribe("news.*", reader)
            assert router.publish("news.sport", News("a")) == 1
            router.unsubscribe("news.*", reader)
            assert router.publish("news.sport", News("b")) == 0
            with pytest.raises(NotJoined, match=r"'news\.\*'"):
                router.unsubscribe("news.*", reader)

            assert kernel.groups.groups() == ()
            assert router.statistics().patterns == 0

    run(main())


def test_a_subscriber_that_ended_is_gone_from_all_its_topics(run: Run) -> None:
    """S82, S32: dead members vanish."""

    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)
            first, second = await readers(kernel, "first", "second")
            for topic in ("news", "news.#"):
                router.subscribe(topic, first)
                router.subscribe(topic, second)

            kernel.kill(first)

            assert router.publish("news", News("a")) == 2
            await kernel.idle()
            assert texts(second) == ["a", "a"]
            assert kernel.statistics().dead_letters == {}

    run(main())


def test_a_publication_reaches_those_who_are_subscribed_at_that_moment(run: Run) -> None:
    """S83: the members are a snapshot; who comes later misses it, who leaves later still gets it."""

    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)
            early, late = await readers(kernel, "early", "late")
            router.subscribe("news", early)

            router.publish("news", News("a"))
            router.unsubscribe("news", early)
            router.subscribe("news", late)
            await kernel.idle()

            assert (texts(early), texts(late)) == (["a"], [])

    run(main())


def test_a_full_or_waiting_member_does_not_hold_the_others(run: Run) -> None:
    """S83: a slow or full member never delays the others or the publisher."""

    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)
            small = (await readers(kernel, "small", cls=Small))[0]
            reader = (await readers(kernel, "reader"))[0]
            stuck = await kernel.spawn(Worker)
            kernel.tell(stuck, Work(0, wait=True))
            await kernel.idle()
            for ref in (small, stuck, reader):
                router.subscribe("news", ref)

            assert [router.publish("news", News(t)) for t in "abc"] == [3, 3, 3]
            await kernel.idle()

            assert texts(reader) == ["a", "b", "c"]
            assert texts(small) == ["a"]
            assert kernel.dead_letters == {"mailbox_full": 2}

    run(main())


def test_order_holds_for_each_publisher_and_subscriber(run: Run) -> None:
    """S83: order per publisher and member, also between what is published and what is told."""

    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)
            refs = await readers(kernel, "a", "b")
            for ref in refs:
                router.subscribe("news.*", ref)

            class Publisher(Actor):
                @on(Work)
                def go(self, work: Work) -> None:
                    for n in range(work.number):
                        router.publish("news.x", News(f"p{n}"))
                        for ref in refs:
                            self.tell(ref, News(f"t{n}"))

            kernel.tell(await kernel.spawn(Publisher, id="publisher"), Work(3))
            await kernel.idle()

            for ref in refs:
                assert texts(ref) == ["p0", "t0", "p1", "t1", "p2", "t2"]
                assert ref.cell.actor.senders == ["publisher"] * 6  # type: ignore[attr-defined]

    run(main())


def test_an_event_is_sealed_once_for_all_subscribers(run: Run) -> None:
    """S83: what has to be copied is copied once, and all get the same private copy."""

    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)
            refs = await readers(kernel, "a", "b")
            for ref in refs:
                router.subscribe("news", ref)
            mine = [1]

            router.publish("news", News("a", extra=mine))
            mine.append(2)
            await kernel.idle()

            (first,), (second,) = read(refs[0]), read(refs[1])
            assert first is second
            assert first == News("a", extra=[1])

    run(main())


def test_an_actor_subscribes_and_publishes_through_its_service(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            router_of(kernel)

            class Subscriber(Reader):
                def starting(self) -> None:
                    self.service("router").subscribe("news.*")

            class Publisher(Actor):
                @on(Work)
                def go(self, work: Work) -> None:
                    self.service("router").publish("news.x", News("a"))
                    self.tell(self.service("router").topic("news.x"), News("b"))
                    assert self.publish("news.x", News("c")) == 1

            subscriber = await kernel.spawn(Subscriber)
            kernel.tell(await kernel.spawn(Publisher), Work(1))
            await kernel.idle()

            assert texts(subscriber) == ["a", "b", "c"]
            found = kernel.service("router").statistics()
            assert (found.published, found.copies, found.patterns) == (3, 3, 1)

    run(main())


def test_joining_the_group_of_a_topic_is_subscribing_to_it(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)

            class Joiner(Reader):
                def starting(self) -> None:
                    self.join("news.sport")

            joiner = await kernel.spawn(Joiner)

            router.publish("news.sport", News("a"))
            await kernel.idle()

            assert texts(joiner) == ["a"]

    run(main())


def test_nobody_subscribed_is_no_dead_letter_for_publish_but_one_for_a_topic_that_is_told(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)

            assert router.publish("news", News("a")) == 0
            assert kernel.dead_letters == {}
            kernel.tell(router.topic("news"), News("a"))
            assert kernel.dead_letters == {"nobody": 1}

    run(main())


MATCHES = [
    ("news.*", ["news.sport", "news.#x"], ["news", "news.sport.tennis", "weather.news", "newss.a"]),
    ("news.#", ["news", "news.sport", "news.sport.tennis"], ["weather", "newss"]),
    ("#", ["news", "a.b.c"], []),
    ("*", ["news"], ["a.b"]),
    ("*.sport", ["news.sport", "a.sport"], ["sport", "a.b.sport"]),
    ("#.sport", ["sport", "a.sport", "a.b.sport"], ["sport.a"]),
    ("a.#.z", ["a.z", "a.b.z", "a.b.c.z"], ["a", "z", "a.z.b"]),
    ("a.*.#", ["a.b", "a.b.c"], ["a", "b.a"]),
    ("#.#", ["a", "a.b"], []),
]


@pytest.mark.parametrize("pattern, matching, other", MATCHES, ids=[m[0] for m in MATCHES])
def test_a_pattern_matches_word_by_word(
    pattern: str, matching: list[str], other: list[str], run: Run
) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)
            (reader,) = await readers(kernel, "reader")
            router.subscribe(pattern, reader)

            assert [t for t in (*matching, *other) if router.publish(t, News(t))] == matching

    run(main())


words = st.sampled_from(["a", "b", "c"])
topics = st.lists(words, min_size=1, max_size=4).map(".".join)
patterns = st.lists(words | st.sampled_from(["*", "#"]), min_size=1, max_size=4).map(".".join)


def matches(pattern: list[str], topic: list[str]) -> bool:
    """What matching means, without an index."""
    if not pattern:
        return not topic
    if pattern[0] == "#":
        return any(matches(pattern[1:], topic[n:]) for n in range(len(topic) + 1))
    return bool(topic) and pattern[0] in ("*", topic[0]) and matches(pattern[1:], topic[1:])


class _Groups:
    """As much of a kernel as topics use: groups, and a name for each actor."""

    def __init__(self) -> None:
        self.groups = Groups()

    def resolve(self, dest: object) -> object:
        return dest


class _Cell:
    def __init__(self) -> None:
        self.pid_text = "cell"


@given(
    steps=st.lists(st.tuples(st.booleans(), patterns | topics), max_size=12),
    asked=st.lists(topics, min_size=1, max_size=4),
)
def test_the_index_finds_what_matching_one_by_one_finds(
    steps: list[tuple[bool, str]], asked: list[str]
) -> None:
    kernel = _Groups()
    index = Topics(kernel)  # type: ignore[arg-type]
    cell = _Cell()
    held: list[str] = []

    for joins, topic in steps:
        if joins:
            index.subscribe(topic, cell)  # type: ignore[arg-type]
            held.append(topic)
        elif topic in held:
            index.unsubscribe(topic, cell)  # type: ignore[arg-type]
            held.remove(topic)
        for published in asked:
            expected = sum(matches(t.split("."), published.split(".")) for t in held)
            assert len(index.audience(published)) == expected


@pytest.mark.parametrize("topic", ["", ".", "news.", "news..sport", "news.sp*", "news.**", 7])
def test_what_is_no_topic_is_refused(topic: str, run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            (reader,) = await readers(kernel, "reader")

            with pytest.raises(SpecError, match="words with dots between them"):
                Router(kernel).subscribe(topic, reader)

    run(main())


def test_somebody_has_to_subscribe(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            router = Router(kernel)

            with pytest.raises(NoProc, match="no actor is running here"):
                router.subscribe("news")
            with pytest.raises(NoProc, match="'nobody'"):
                router.subscribe("news", "nobody")

    run(main())


# Watches.


def test_a_watch_gives_the_members_and_then_each_change_once(run: Run) -> None:
    """S84: members and watch in one step; every later join and leave once, no gap, no repeat."""

    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)
            a, b, watcher = await readers(kernel, "a", "b", "watcher")
            router.subscribe("news", a)
            pid = a.pid

            watch, members = router.watch("news", watcher)
            router.subscribe("news", a)
            router.subscribe("news", b)
            router.subscribe("weather", b)
            router.unsubscribe("news", b)
            kernel.kill(a)
            await kernel.idle()

            assert members == (pid,)
            assert read(watcher) == [
                GroupChanged(watch, pid, True),
                GroupChanged(watch, b.pid, True),
                GroupChanged(watch, b.pid, False),
                GroupChanged(watch, pid, False),
                GroupChanged(watch, pid, False),
            ]

    run(main())


def test_unwatch_also_removes_the_changes_that_wait(run: Run) -> None:
    """S84: unwatch flushes."""

    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)
            a, watcher = await readers(kernel, "a", "watcher")
            watch, _ = router.watch("news", watcher)
            other, _ = router.watch("news", watcher)

            router.subscribe("news", a)
            kernel.tell(watcher, News("between"))
            router.unsubscribe("news", a)
            assert router.unwatch(watch)
            router.subscribe("news", a)
            await kernel.idle()

            assert [c.watch for c in read(watcher) if isinstance(c, GroupChanged)] == [other] * 3
            assert texts(watcher) == ["between"]
            assert not router.unwatch(watch)

    run(main())


def test_the_watch_of_an_actor_that_ended_is_over(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            router = router_of(kernel)
            a, watcher = await readers(kernel, "a", "watcher")
            watch, _ = router.watch("news", watcher)

            kernel.kill(watcher)
            router.subscribe("news", a)

            assert kernel.dead_letters == {}
            assert not router.unwatch(watch)
            assert isinstance(watch, Watch)

    run(main())
