"""Calls that can wait go in batches: gathered, committed first, brought back, and never paid twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from avm.actors import Actor, Kernel, Ref, on
from avm.errors import (
    BadOutput,
    InvalidRequest,
    NotAuthorized,
    Overloaded,
    ProviderConnection,
    ProviderError,
    RateLimited,
    SpecError,
    StartError,
)
from avm.io.batch import PREFIX
from avm.io.courier import UNCLAIMED, BatchCourier, BatchFailed, CourierStatistics
from avm.io.dispatch import Answered, Dispatch, Withdraw
from avm.io.providers.provider import BatchState, Capabilities
from avm.io.request import CallPolicy, Completion, Hints, ModelRequest, Timings, encode_fragment
from avm.memory import Conversation, Store
from avm.testing import ManualClock
from avm.testing.probe import ProbeActor
from tests.io.pooled import prompt

Run = Callable[[Coroutine[Any, Any, Any]], Any]

ALONE = CallPolicy(batch=True)
SHARING = CallPolicy(batch=True, coalesce=True)


def reply_to(request: ModelRequest) -> Completion:
    text = f"re: {next(request.history())['content']}"
    return Completion(encode_fragment({"role": "assistant", "content": text}), source="batch")


class Post:
    """A provider of batches, which end when the test says so.

    Attributes:
        submitted: the calls of each batch, by the provider's id.
        polls, cancelled: ids, in the order of the calls.
        trouble: raised, first to last, by what is called next; None lets a call through.
        results: in place of the replies, by prompt; `raises` says that errors are of the reading itself.
    """

    name = "post"
    credential = "ours"

    def __init__(self) -> None:
        self.submitted: dict[str, list[tuple[str, ModelRequest]]] = {}
        self.ended: set[str] = set()
        self.polls: list[str] = []
        self.cancelled: list[str] = []
        self.trouble: list[BaseException | None] = []
        self.results: dict[str, ProviderError | None] = {}
        self.raises = False
        self.before_submit: Callable[[], None] = lambda: None
        self.gate: asyncio.Event | None = None

    async def submit_batch(self, requests: Sequence[tuple[str, ModelRequest]]) -> str:
        self.before_submit()
        self._stumble()
        if self.gate is not None:
            await self.gate.wait()
        id = f"batch_{len(self.submitted) + 1}"
        self.submitted[id] = list(requests)
        return id

    async def poll_batch(self, batch: str) -> BatchState:
        self.polls.append(batch)
        self._stumble()
        return BatchState(batch in self.ended)

    async def batch_results(self, batch: str) -> AsyncIterator[tuple[str, Completion | ProviderError]]:
        self._stumble()
        for id, request in reversed(self.submitted[batch]):
            result = self.results.get(next(request.history())["content"], reply_to(request))
            if self.raises and isinstance(result, ProviderError):
                raise result
            if result is not None:
                yield id, result

    async def cancel_batch(self, batch: str) -> None:
        self.cancelled.append(batch)

    def prompts(self) -> list[list[str]]:
        """Return what was asked in each batch."""
        return [
            [next(request.history())["content"] for _, request in calls] for calls in self.submitted.values()
        ]

    def _stumble(self) -> None:
        error = self.trouble.pop(0) if self.trouble else None
        if error is not None:
            raise error


@attrs.define
class Desk:
    """A courier, and what it has told the front."""

    kernel: Kernel
    clock: ManualClock
    ref: Ref
    kept: list[Answered]

    async def send(self, serial: int, text: str, policy: CallPolicy = ALONE, **fields: Any) -> None:
        request = prompt(text, **fields)
        self.kernel.tell(self.ref, Dispatch(serial, request, policy, "background", self.clock.now()))
        await self.kernel.idle()

    async def withdraw(self, *serials: int) -> None:
        for serial in serials:
            self.kernel.tell(self.ref, Withdraw(serial))
        await self.kernel.idle()

    async def advance(self, seconds: int) -> None:
        for _ in range(seconds):
            self.clock.advance(1.0)
            await self.kernel.idle()

    def answers(self) -> dict[int, str]:
        """Return the texts, or the names of errors, by serial."""
        found = {}
        for answered in self.kept:
            outcome = answered.outcome
            found[answered.serial] = (
                outcome.text if isinstance(outcome, Completion) else type(outcome).__name__
            )
        assert len(found) == len(self.kept), "somebody was answered twice"
        return found

    def statistics(self) -> CourierStatistics:
        found: CourierStatistics = self.courier.statistics()
        return found

    @property
    def courier(self) -> Any:
        cell = self.ref.reach()
        assert cell is not None
        return cell.actor


@asynccontextmanager
async def desk(post: Post, store: Store | None = None, **options: Any) -> AsyncIterator[Desk]:
    store = store if store is not None else Store()
    clock = ManualClock()
    options = {"most_seconds": 60.0, "wall": lambda: 1_000_000.0 + clock.now(), **options}
    async with Kernel(clock=clock, store=store) as kernel:
        kept: list[Answered] = []
        front = await kernel.spawn(ProbeActor, kept, None)
        ref = await kernel.spawn(BatchCourier, front, post, store.roots, kwargs=options)
        yield Desk(kernel, clock, ref, kept)


def records(store: Store, prefix: str = PREFIX) -> list[Conversation]:
    found = [store.roots.get(name) for name in sorted(store.roots) if name.startswith(prefix)]
    return [record for record in found if record is not None]


async def on_disk(at: Desk, store: Store) -> None:
    """Wait until what is committed so far is on disk, and what follows from it."""
    for _ in range(3):
        await asyncio.wrap_future(store.roots.commit("marker", Conversation(store)))
        await at.kernel.idle()


# Gathering.


def test_calls_wait_for_others_until_the_first_of_them_is_old_enough(run: Run) -> None:
    async def body() -> None:
        post = Post()
        async with desk(post) as at:
            await at.send(1, "one")
            await at.advance(30)
            await at.send(2, "two")
            await at.advance(29)
            assert post.prompts() == []

            await at.advance(1)

            assert post.prompts() == [["one", "two"]]

    run(body())


def test_a_batch_is_sent_when_it_has_its_number_of_calls(run: Run) -> None:
    async def body() -> None:
        post = Post()
        async with desk(post, most_calls=2) as at:
            for serial, text in enumerate(("one", "two", "three"), 1):
                await at.send(serial, text)

            assert post.prompts() == [["one", "two"]]
            assert at.statistics().gathering == 1
            await at.advance(60)
            assert post.prompts() == [["one", "two"], ["three"]]

    run(body())


def test_a_batch_never_exceeds_its_bytes_but_for_a_call_that_is_larger_alone(run: Run) -> None:
    async def body() -> None:
        post = Post()
        async with desk(post, most_bytes=1000) as at:
            await at.send(1, "a" * 500)
            await at.send(2, "b" * 600)
            await at.send(3, "c" * 5000)
            await at.send(4, "d")
            await at.advance(60)

            assert [[len(text) for text in texts] for texts in post.prompts()] == [[500], [600], [5000], [1]]

    run(body())


def test_ids_tell_equal_calls_apart_and_are_such_as_providers_take(run: Run) -> None:
    async def body() -> None:
        post = Post()
        async with desk(post, most_calls=3) as at:
            for serial in (1, 2, 3):
                await at.send(serial, "same")

            ids = [id for id, _ in post.submitted["batch_1"]]
            assert len(set(ids)) == 3
            assert all(len(id) <= 64 and id.replace("-", "").isalnum() for id in ids)

    run(body())


def test_equal_calls_that_may_share_a_reply_are_one_call_in_the_batch(run: Run) -> None:
    async def body() -> None:
        post = Post()
        async with desk(post) as at:
            await at.send(1, "same", SHARING)
            await at.send(2, "same", SHARING)
            await at.send(3, "same", ALONE)
            await at.advance(60)
            await at.send(4, "same", SHARING)
            assert post.prompts() == [["same", "same"]]

            post.ended.add("batch_1")
            await at.advance(5)

            assert at.answers() == dict.fromkeys((1, 2, 3, 4), "re: same")

    run(body())


def test_a_shared_call_that_comes_after_the_result_is_made_again(run: Run) -> None:
    async def body() -> None:
        post = Post()
        async with desk(post, most_calls=1) as at:
            await at.send(1, "same", SHARING)
            post.ended.add("batch_1")
            await at.advance(5)

            await at.send(2, "same", SHARING)

            assert post.prompts() == [["same"], ["same"]]

    run(body())


def test_calls_that_want_variety_are_never_one(run: Run) -> None:
    async def body() -> None:
        post = Post()
        async with desk(post) as at:
            for serial in (1, 2):
                await at.send(serial, "same", SHARING, params=b'{"temperature":1}')
            await at.advance(60)

            assert post.prompts() == [["same", "same"]]

    run(body())


# Bringing back.


def test_the_results_go_to_those_who_asked_whatever_their_order(run: Run) -> None:
    async def body() -> None:
        post = Post()
        async with desk(post) as at:
            await at.send(1, "one")
            await at.send(2, "two")
            await at.advance(60)
            post.ended.add("batch_1")
            await at.advance(5)

            assert at.answers() == {1: "re: one", 2: "re: two"}
            outcome = at.kept[0].outcome
            assert outcome.source == "batch"
            assert outcome.timings == Timings(0.0, 60.0, 65.0)
            assert at.statistics() == CourierStatistics(
                gathering=0, batches=0, pending=0, waiting=0, unclaimed=0, answered=2, failed=0
            )

    run(body())


def test_a_batch_is_asked_for_less_and_less_often(run: Run) -> None:
    async def body() -> None:
        post = Post()
        async with desk(post, most_calls=1) as at:
            await at.send(1, "one")
            moments: list[int] = []
            for second in range(1, 260):
                await at.advance(1)
                if len(post.polls) > len(moments):
                    moments.append(second)

            assert moments == [5, 15, 35, 75, 135, 195, 255]

    run(body())


def test_trouble_with_asking_is_no_trouble_for_the_batch(run: Run) -> None:
    async def body() -> None:
        post = Post()
        async with desk(post, most_calls=1) as at:
            await at.send(1, "one")
            post.ended.add("batch_1")
            # The first poll, and after the second, which says that it has ended, the reading of the results.
            post.trouble = [Overloaded("busy"), None, Overloaded("busy")]
            await at.advance(15)
            assert (at.answers(), post.trouble) == ({}, [])

            await at.advance(20)

            assert at.answers() == {1: "re: one"}

    run(body())


def test_a_call_that_fails_in_the_batch_is_handed_back_with_the_cause(run: Run) -> None:
    async def body() -> None:
        post = Post()
        wrong = InvalidRequest("max_tokens is too large", "post", "m", "req_7")
        post.results = {"wrong": wrong, "lost": None}
        async with desk(post) as at:
            for serial, text in enumerate(("fine", "wrong", "lost"), 1):
                await at.send(serial, text)
            await at.advance(60)
            post.ended.add("batch_1")
            await at.advance(5)

            assert at.answers() == {1: "re: fine", 2: "BatchFailed", 3: "BatchFailed"}
            error = at.kept[1].outcome
            assert error.__cause__ is wrong
            assert (error.provider, error.model, error.request_id) == ("post", "m", "req_7")
            assert "max_tokens is too large" in str(error)
            assert "has no result" in str(at.kept[2].outcome)

    run(body())


@pytest.mark.parametrize(
    "error", [ProviderConnection("no line"), NotAuthorized("no"), ZeroDivisionError("a bug")]
)
def test_a_batch_that_is_not_taken_hands_its_calls_back(run: Run, error: Exception) -> None:
    async def body() -> None:
        post, store = Post(), Store()
        post.trouble = [error]
        async with desk(post, store, most_calls=2) as at:
            await at.send(1, "one")
            await at.send(2, "two")

            assert at.answers() == {1: "BatchFailed", 2: "BatchFailed"}
            assert at.kept[0].outcome.__cause__ is error
            assert records(store) == []

            await at.send(3, "three")
            await at.send(4, "four")
            assert post.prompts() == [["three", "four"]]

    run(body())


def test_a_batch_that_the_provider_has_no_room_for_is_handed_in_again(run: Run) -> None:
    async def body() -> None:
        post, store = Post(), Store()
        post.trouble = [Overloaded("busy"), RateLimited("slow down", retry_after=20.0)]
        async with desk(post, store, most_calls=1) as at:
            await at.send(1, "one")
            await at.advance(24)
            assert post.prompts() == []
            assert len(records(store)) == 1

            await at.advance(1)

            assert post.prompts() == [["one"]]
            post.ended.add("batch_1")
            await at.advance(5)
            assert at.answers() == {1: "re: one"}

    run(body())


def test_a_batch_that_finds_no_room_for_five_minutes_hands_its_calls_back(run: Run) -> None:
    async def body() -> None:
        post, store = Post(), Store()
        post.trouble = [Overloaded("busy")] * 100
        async with desk(post, store, most_calls=1) as at:
            await at.send(1, "one")
            await at.advance(300)
            assert at.answers() == {}

            await at.advance(60)

            assert at.answers() == {1: "BatchFailed"}
            assert records(store) == []

    run(body())


def test_a_batch_the_provider_does_not_know_any_more_hands_its_calls_back(run: Run) -> None:
    async def body() -> None:
        post = Post()
        async with desk(post, most_calls=1) as at:
            await at.send(1, "one")
            post.trouble = [InvalidRequest("no such batch")]
            await at.advance(5)

            assert at.answers() == {1: "BatchFailed"}

    run(body())


def test_a_batch_that_takes_too_long_is_cancelled_and_hands_its_calls_back(run: Run) -> None:
    async def body() -> None:
        post, store = Post(), Store()
        async with desk(post, store, most_calls=1, give_up=300.0) as at:
            await at.send(1, "one")
            await at.advance(299)
            assert at.answers() == {}

            await at.advance(1)
            assert post.cancelled == ["batch_1"]
            await at.advance(60)

            assert at.answers() == {1: "BatchFailed"}
            assert "batch batch_1 of post has not ended within 300 s" in str(at.kept[0].outcome)
            assert post.cancelled == ["batch_1"]
            assert records(store) == []

    run(body())


def test_what_a_batch_that_was_cancelled_has_done_is_not_done_again(run: Run) -> None:
    async def body() -> None:
        post = Post()
        post.results = {"not done": ProviderError("the call is canceled")}
        async with desk(post, most_calls=2, give_up=300.0) as at:
            await at.send(1, "done")
            await at.send(2, "not done")
            await at.advance(300)
            assert post.cancelled == ["batch_1"]

            post.ended.add("batch_1")
            await at.advance(5)

            assert at.answers() == {1: "re: done", 2: "BatchFailed"}

    run(body())


def test_results_that_cannot_be_read_to_the_end_count_as_far_as_they_can(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        post = Post()
        # They come in the opposite order.
        post.results = {"one": BadOutput("what is this?")}
        post.raises = True
        async with desk(post, most_calls=3) as at:
            for serial, text in enumerate(("zero", "one", "two"), 1):
                await at.send(serial, text)
            post.ended.add("batch_1")
            await at.advance(5)

            assert at.answers() == {1: "BatchFailed", 2: "BatchFailed", 3: "re: two"}
            assert "of the results of batch batch_1 only 1 of 3 can be read" in caplog.text

    run(body())


# Who gives up.


def test_a_call_that_is_withdrawn_in_time_is_never_made(run: Run) -> None:
    async def body() -> None:
        post = Post()
        async with desk(post) as at:
            await at.send(1, "one")
            await at.send(2, "two")
            await at.send(3, "two", SHARING)
            await at.withdraw(1, 3, 99)
            await at.advance(60)

            assert post.prompts() == [["two"]]

    run(body())


def test_a_batch_from_which_all_have_left_is_not_sent_and_the_next_waits_its_full_time(run: Run) -> None:
    async def body() -> None:
        post = Post()
        async with desk(post) as at:
            await at.send(1, "one")
            await at.advance(50)
            await at.withdraw(1)
            await at.send(2, "two")
            await at.advance(59)
            assert post.prompts() == []

            await at.advance(1)

            assert post.prompts() == [["two"]]

    run(body())


def test_a_shared_call_is_made_while_anyone_waits_for_it(run: Run) -> None:
    async def body() -> None:
        post = Post()
        async with desk(post) as at:
            await at.send(1, "same", SHARING)
            await at.send(2, "same", SHARING)
            await at.withdraw(1)
            await at.advance(60)
            post.ended.add("batch_1")
            await at.advance(5)

            assert at.answers() == {2: "re: same"}

    run(body())


def test_the_next_equal_call_takes_the_place_of_one_that_was_withdrawn_too_late(run: Run) -> None:
    async def body() -> None:
        post = Post()
        async with desk(post, most_calls=1) as at:
            await at.send(1, "one")
            await at.withdraw(1)
            await at.send(2, "one")
            assert post.prompts() == [["one"]]
            await at.send(3, "one")
            assert post.prompts() == [["one"], ["one"]]

            post.ended.update(("batch_1", "batch_2"))
            await at.advance(5)

            assert at.answers() == {2: "re: one", 3: "re: one"}

    run(body())


def test_a_result_that_nobody_waits_for_is_given_to_the_next_who_asks_and_to_nobody_else(run: Run) -> None:
    async def body() -> None:
        post = Post()
        async with desk(post, most_calls=1) as at:
            await at.send(1, "one")
            await at.withdraw(1)
            post.ended.add("batch_1")
            await at.advance(5)
            assert at.statistics().unclaimed == 1

            await at.send(2, "one")

            assert at.answers() == {2: "re: one"}
            assert at.kept[0].outcome.source == "batch"
            assert at.statistics().unclaimed == 0
            await at.send(3, "one")
            assert post.prompts() == [["one"], ["one"]]

    run(body())


def test_a_result_that_nobody_asks_for_is_forgotten_in_time(run: Run) -> None:
    async def body() -> None:
        post = Post()
        async with desk(post, most_calls=1, give_up=300.0) as at:
            await at.send(1, "one")
            await at.withdraw(1)
            post.ended.add("batch_1")
            await at.advance(5)
            await at.advance(300)

            await at.send(2, "one")

            assert post.prompts() == [["one"], ["one"]]

    run(body())


def test_what_a_front_has_sent_is_withdrawn_when_it_ends(run: Run) -> None:
    class Sender(Actor):
        def __init__(self, courier: Ref) -> None:
            self.courier = courier

        @on(Dispatch)
        def pass_on(self, dispatch: Dispatch) -> None:
            self.tell(self.courier, dispatch)

    async def body() -> None:
        post = Post()
        async with desk(post, most_calls=2) as at:
            sender = await at.kernel.spawn(Sender, at.ref)
            for serial, text in enumerate(("one", "two", "three"), 1):
                at.kernel.tell(sender, Dispatch(serial, prompt(text), ALONE, "background", 0.0))
            await at.kernel.idle()
            assert at.statistics().waiting == 3

            at.kernel.kill(sender)
            await at.kernel.idle()

            assert (at.statistics().waiting, at.statistics().gathering) == (0, 0)
            await at.send(11, "two")
            post.ended.add("batch_1")
            await at.advance(5)
            assert at.answers() == {11: "re: two"}
            assert at.statistics().unclaimed == 1

    run(body())


# Records.


def test_what_is_in_a_batch_is_committed_before_the_provider_gets_it(run: Run) -> None:
    async def body() -> None:
        post, store = Post(), Store()
        seen: list[list[dict[str, Any]]] = []
        post.before_submit = lambda: seen.extend(record.messages() for record in records(store))
        async with desk(post, store, most_calls=1) as at:
            await at.send(1, "one")

            ((calls,),) = seen
            ((id, request),) = post.submitted["batch_1"]
            assert calls == {"role": "calls", "content": f"{id} {request.digest().hex()}"}
            (record,) = records(store)
            assert record.messages() == [calls, {"role": "batch", "content": "batch_1"}]

            post.ended.add("batch_1")
            await at.advance(5)
            assert records(store) == []

    run(body())


def test_a_courier_that_crashed_finds_its_batches_again(run: Run) -> None:
    async def body() -> None:
        post, store = Post(), Store()
        async with desk(post, store, most_calls=2) as at:
            await at.send(1, "one")
            await at.send(2, "two")
            at.kernel.kill(at.ref)
            await at.kernel.idle()
        async with desk(post, store, most_calls=2) as at:
            await at.send(11, "one")
            post.ended.add("batch_1")
            await at.advance(5)

            assert at.answers() == {11: "re: one"}
            assert post.prompts() == [["one", "two"]]
            await at.send(12, "two")
            assert at.answers() == {11: "re: one", 12: "re: two"}

    run(body())


@pytest.mark.slow
def test_the_next_process_finds_the_batch_and_pays_for_nothing_again(run: Run, tmp_path: Path) -> None:
    async def first(post: Post) -> None:
        with Store.open(tmp_path / "home", durable=False) as store:
            async with desk(post, store, most_calls=2) as at:
                await at.send(1, "one")
                await at.send(2, "two")
                await on_disk(at, store)
                assert post.prompts() == [["one", "two"]]

    async def second(post: Post) -> None:
        with Store.open(tmp_path / "home", durable=False) as store:
            async with desk(post, store, most_calls=2) as at:
                await at.send(11, "one")
                post.ended.add("batch_1")
                await at.advance(5)
                assert at.answers() == {11: "re: one"}
                assert (records(store), len(records(store, UNCLAIMED))) == ([], 1)

    async def third(post: Post) -> None:
        with Store.open(tmp_path / "home", durable=False) as store:
            async with desk(post, store, most_calls=2) as at:
                await at.send(21, "two")
                assert at.answers() == {21: "re: two"}
                assert records(store, UNCLAIMED) == []

    post = Post()
    run(first(post))
    run(second(post))
    run(third(post))
    assert post.prompts() == [["one", "two"]]


def test_a_courier_that_stops_waits_for_the_id_of_a_batch_that_is_being_handed_in(run: Run) -> None:
    async def body() -> None:
        post, store = Post(), Store()
        post.gate = asyncio.Event()
        async with desk(post, store, most_calls=1) as at:
            await at.send(1, "one")
            stopped = asyncio.ensure_future(at.kernel.stop_actor(at.ref))
            await at.kernel.idle()
            assert not stopped.done()

            post.gate.set()
            await stopped

        assert [len(record) for record in records(store)] == [2]

    run(body())


def test_a_batch_of_which_nobody_knows_whether_it_was_submitted_is_taken_as_not(run: Run) -> None:
    async def body() -> None:
        post, store = Post(), Store()
        post.gate = asyncio.Event()
        async with desk(post, store, most_calls=1) as at:
            await at.send(1, "one")
            at.kernel.kill(at.ref)
            await at.kernel.idle()
        assert [len(record) for record in records(store)] == [1]
        post.gate = None

        async with desk(post, store, most_calls=1) as at:
            assert records(store) == []
            await at.send(11, "one")
            assert post.prompts() == [["one"]]

    run(body())


def test_the_time_of_a_batch_goes_on_while_no_process_runs(run: Run) -> None:
    async def body() -> None:
        post, store = Post(), Store()
        async with desk(post, store, most_calls=1, give_up=300.0) as at:
            await at.send(1, "one")
        later = 1_000_200.0
        async with desk(post, store, give_up=300.0, wall=lambda: later) as at:
            await at.send(11, "one")
            await at.advance(99)
            assert post.cancelled == []

            await at.advance(1)

            assert post.cancelled == ["batch_1"]

    run(body())


def test_results_that_came_while_no_process_ran_are_brought_however_late(run: Run) -> None:
    async def body() -> None:
        post, store = Post(), Store()
        async with desk(post, store, most_calls=1, give_up=300.0) as at:
            await at.send(1, "one")
        post.ended.add("batch_1")
        async with desk(post, store, give_up=300.0, wall=lambda: 2_000_000.0) as at:
            await at.advance(1)
            await at.send(11, "one")

            assert at.answers() == {11: "re: one"}

    run(body())


def test_records_of_another_account_are_left_alone(run: Run) -> None:
    async def body() -> None:
        post, store = Post(), Store()
        async with desk(post, store, most_calls=1) as at:
            await at.send(1, "one")
        other = Post()
        other.credential = "theirs"

        async with desk(other, store) as at:
            await at.advance(60)

        assert other.polls == []
        assert len(records(store)) == 1

    run(body())


def test_a_record_that_makes_no_sense_is_deleted_and_the_courier_starts(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    async def body() -> None:
        post, store = Post(), Store()
        nonsense = Conversation(store).extend([{"role": "user", "content": "x y z"}] * 2)
        store.roots.commit(f"{PREFIX}post/ours/1", nonsense)

        async with desk(post, store, most_calls=1) as at:
            await at.send(1, "one")

            assert post.prompts() == [["one"]]
            assert "avm.io/batch/post/ours/1" in caplog.text

    run(body())


def test_without_roots_batches_are_made_all_the_same(run: Run) -> None:
    async def body() -> None:
        post, clock = Post(), ManualClock()
        async with Kernel(clock=clock) as kernel:
            kept: list[Answered] = []
            front = await kernel.spawn(ProbeActor, kept, None)
            ref = await kernel.spawn(BatchCourier, front, post, None, kwargs={"most_calls": 1})
            at = Desk(kernel, clock, ref, kept)
            await at.send(1, "one")
            post.ended.add("batch_1")
            await at.advance(5)

            assert at.answers() == {1: "re: one"}

    run(body())


def test_a_limit_that_nothing_fits_in_is_refused(run: Run) -> None:
    async def body() -> None:
        with pytest.raises(StartError) as caught:
            async with desk(Post(), most_calls=0):
                pass

        cause = caught.value.__cause__
        assert isinstance(cause, SpecError)
        assert "most_calls must be above 0, got 0" in str(cause)

    run(body())


def test_a_failed_batch_is_an_error_of_the_provider() -> None:
    assert issubclass(BatchFailed, ProviderError)


# The prompt cache, the account and the clock.


class CachingPost(Post):
    """A provider of batches with a prompt cache."""

    def capabilities(self, model: str) -> Capabilities:
        return Capabilities(family="f", batches=True, prompt_cache="prefix", min_cached_tokens=1_000)


@pytest.mark.parametrize(
    ("system", "policy", "hints"),
    [
        ("s" * 10_000, ALONE, Hints(system=True, hour=True)),
        ("short", ALONE, Hints(hour=True)),
        ("s" * 10_000, CallPolicy(batch=True, prompt_cache="off"), None),
    ],
)
def test_calls_of_a_batch_have_breakpoints_that_live_an_hour(
    run: Run, system: str, policy: CallPolicy, hints: Hints | None
) -> None:
    async def body() -> None:
        post = CachingPost()
        async with desk(post, most_calls=2) as at:
            await at.send(1, "one", policy, system=system)
            await at.send(2, "two", policy, system=system)

            assert [request.hints for _, request in post.submitted["batch_1"]] == [hints, hints]

    run(body())


def test_a_refused_key_while_polling_does_not_forget_a_batch_that_is_paid_for(run: Run) -> None:
    async def body() -> None:
        post, store = Post(), Store()
        async with desk(post, store, most_calls=1) as at:
            await at.send(1, "one")
            post.ended.add("batch_1")
            # At the first poll, and when its results are read at the second.
            post.trouble = [NotAuthorized("401"), None, NotAuthorized("401")]
            await at.advance(30)
            between = (at.answers(), len(records(store)))
            await at.advance(120)

            assert between == ({}, 1)
            assert at.answers() == {1: "re: one"}

    run(body())


def test_the_wall_clock_is_that_of_the_service_if_nobody_names_another(run: Run) -> None:
    async def body() -> None:
        store = Store()
        services = {"wall": lambda: 7.0}
        async with Kernel(clock=ManualClock(), store=store, services=services) as kernel:
            front = await kernel.spawn(ProbeActor, [], None)
            ref = await kernel.spawn(BatchCourier, front, Post(), store.roots, kwargs={"most_calls": 1})
            kernel.tell(ref, Dispatch(1, prompt("one"), ALONE, "background", 0.0))
            await kernel.idle()

            assert [record.meta["submitted"] for record in records(store)] == [7.0]

    run(body())
