"""Strategies: which actor gets it."""

from __future__ import annotations

import asyncio
from collections import Counter
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.actors import Actor, Kernel, Ref, Request, event, on
from avm.actors.cell import Cell
from avm.errors import EventError, NoProc, SpecError
from avm.memory import Digest
from avm.router import broadcast, by_key, least_loaded, partitions, round_robin
from avm.router.strategies import stable_hash
from avm.supervision import child, start_tree, supervisor
from tests.router.town import Run, Work, Worker


@event
class WhoAreYou(Request[str]):
    key: str = ""


class Teller(Actor):
    @on(WhoAreYou)
    def tell_it(self, question: WhoAreYou) -> str:
        return self.path


async def pool(kernel: Kernel, count: int, group: str = "tellers") -> list[Ref]:
    refs = [await kernel.spawn(Teller, id=f"t{n}") for n in range(count)]
    for ref in refs:
        kernel.groups.join(group, ref.cell)
    return refs


def test_round_robin_takes_one_after_the_other(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            await pool(kernel, 3)
            dest = round_robin("tellers")

            assert [await kernel.ask(dest, WhoAreYou()) for _ in range(5)] == ["t0", "t1", "t2", "t0", "t1"]

    run(main())


def test_round_robin_over_a_list_leaves_out_the_dead(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            refs = await pool(kernel, 3)
            dest = round_robin([refs[0], "t1", refs[2].pid])
            kernel.kill("t1")

            assert [await kernel.ask(dest, WhoAreYou()) for _ in range(3)] == ["t0", "t2", "t0"]

    run(main())


def test_least_loaded_takes_the_shortest_mailbox(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            workers = [await kernel.spawn(Worker) for _ in range(3)]
            for ref in workers:
                kernel.groups.join("workers", ref.cell)
            for ref, load in zip(workers, (4, 1, 3), strict=True):
                for _ in range(load):
                    kernel.tell(ref, Work(0))

            for _ in range(4):
                kernel.tell(least_loaded("workers"), Work(1))

            assert [ref.cell.length() for ref in workers] == [4, 4, 4]

    run(main())


def test_least_loaded_counts_the_event_being_handled_and_rotates_among_equals(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            refs = [await kernel.spawn(Worker, id=f"w{n}") for n in range(3)]
            kernel.tell(refs[0], Work(0, wait=True))
            await kernel.idle()
            dest = least_loaded(refs)

            chosen = [cell.path for _ in range(4) for cell in dest.resolve(Work(1), kernel)]

            assert chosen == ["w1", "w2", "w1", "w2"]

    run(main())


def test_broadcast_reaches_each_membership_once(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            workers = [await kernel.spawn(Worker) for _ in range(2)]
            for ref in (*workers, workers[0]):
                kernel.groups.join("workers", ref.cell)

            kernel.tell(broadcast("workers"), Work(7))
            await kernel.idle()

            assert [ref.cell.actor.done for ref in workers] == [[7, 7], [7]]

    run(main())


@pytest.mark.parametrize(
    "make", [round_robin, least_loaded, broadcast, lambda g: by_key(g, key=lambda e: e.key)]
)
def test_nobody_in_the_group_is_noproc_for_an_ask_and_a_dead_letter_for_a_tell(
    make: object, run: Run
) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            dest = make("nobody")  # type: ignore[operator]

            with pytest.raises(NoProc, match=r"\('nobody'\) has no receiver now"):
                await kernel.ask(dest, WhoAreYou())
            kernel.tell(dest, WhoAreYou())

            assert kernel.dead_letters == {"nobody": 1}

    run(main())


def test_a_broadcast_cannot_be_asked(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            await pool(kernel, 2)

            with pytest.raises(EventError, match="one receiver"):
                await kernel.ask(broadcast("tellers"), WhoAreYou())

    run(main())


def test_by_key_sends_equal_keys_to_the_same_member(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            await pool(kernel, 4)
            dest = by_key("tellers", key=lambda question: question.key)
            keys = [f"user-{n}" for n in range(200)]

            first = {key: await kernel.ask(dest, WhoAreYou(key)) for key in keys}
            again = {key: await kernel.ask(dest, WhoAreYou(key)) for key in reversed(keys)}

            assert first == again
            assert all(30 <= n <= 70 for n in Counter(first.values()).values())

    run(main())


def test_a_member_that_leaves_gives_up_its_own_keys_only_and_gets_them_back(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            await pool(kernel, 4)
            dest = by_key("tellers", key=lambda question: question.key)
            keys = [f"user-{n}" for n in range(100)]

            async def places() -> dict[str, str]:
                return {key: await kernel.ask(dest, WhoAreYou(key)) for key in keys}

            before = await places()
            kernel.kill("t1")
            without = await places()
            back = await kernel.spawn(Teller, id="t1")
            kernel.groups.join("tellers", back.cell)

            assert {k for k in keys if before[k] != without[k]} == {k for k in keys if before[k] == "t1"}
            assert await places() == before

    run(main())


def test_partitions_keep_their_keys_across_a_restart(run: Run) -> None:
    """S85: the partition of a key is stable for a fixed count; partitions are supervised children."""

    async def main() -> None:
        async with Kernel() as kernel:
            tree = supervisor("pool", children=[child(str(n), Teller) for n in range(4)], max_restarts=10)
            await start_tree(kernel, tree)
            dest = by_key(partitions("pool", 4), key=lambda question: question.key)
            place = await kernel.ask(dest, WhoAreYou("ann"))

            kernel.kill(place)
            with pytest.raises(NoProc):
                await kernel.ask(dest, WhoAreYou("ann"))
            while kernel.find(place) is None:
                await asyncio.sleep(0)

            assert await kernel.ask(dest, WhoAreYou("ann")) == place

    run(main())


def test_the_partition_of_a_key_is_the_same_in_every_process() -> None:
    """S85: these numbers are kept by other nodes too, and may not change."""
    assert stable_hash("ann") == 0x7F8E5B1DC274C7DC
    assert stable_hash(("ann", 7)) % 8 == 4
    assert stable_hash(b"ann") != stable_hash("ann")
    assert stable_hash(Digest.of("ann")) != stable_hash(Digest.of("bob"))
    assert stable_hash(UUID(int=1)) != stable_hash(1)


@given(st.lists(st.tuples(st.text(), st.binary()) | st.integers() | st.text(), max_size=20, unique=True))
def test_unlike_keys_have_unlike_numbers(keys: list[object]) -> None:
    assert len({stable_hash(key) for key in keys}) == len(keys)


def test_a_key_of_no_lasting_form_is_refused_at_the_sender(run: Run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            await pool(kernel, 2)

            with pytest.raises(EventError, match="the key of WhoAreYou is 0.5; return text"):
                kernel.tell(by_key("tellers", key=lambda question: 0.5), WhoAreYou())

    run(main())


def test_any_object_that_resolves_may_stand_for_a_name_service(run: Run) -> None:
    """S81: sending through a name service of one's own; one that fails raises at the caller."""

    class PhoneBook:
        def __init__(self) -> None:
            self.numbers: dict[int, Ref] = {}
            self.number = 0

        def resolve(self, event: object, kernel: Kernel) -> tuple[Cell, ...]:
            cell = self.numbers[self.number].reach()
            return () if cell is None else (cell,)

    async def main() -> None:
        async with Kernel() as kernel:
            book = PhoneBook()
            (book.numbers[555],) = await pool(kernel, 1)

            book.number = 555
            assert await kernel.ask(book, WhoAreYou()) == "t0"
            book.number = 556
            with pytest.raises(KeyError):
                await kernel.ask(book, WhoAreYou())
            with pytest.raises(KeyError):
                kernel.tell(book, WhoAreYou())

    run(main())


def test_members_and_counts_are_checked() -> None:
    with pytest.raises(SpecError, match="got 3"):
        round_robin([3])  # type: ignore[list-item]
    with pytest.raises(SpecError, match="count must be a whole number of 1 or more, got 0"):
        partitions("pool", 0)


def test_a_strategy_prints_as_it_was_written() -> None:
    assert repr(round_robin("a")) == "round_robin('a')"
    assert repr(least_loaded(["a", "b"])) == "least_loaded(['a', 'b'])"
