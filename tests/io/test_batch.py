"""Batches as plain objects: what is in one, who waits for it, what its record says, and what a line of results is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.errors import BadOutput, ProviderConnection, ProviderError
from avm.io.batch import PREFIX, Batch, Entry, Records, Waiters
from avm.io.providers.batches import read_result
from avm.io.providers.failures import Asked
from avm.io.request import Completion
from avm.memory import Store
from tests.io.pooled import prompt

Run = Callable[[Coroutine[Any, Any, Any]], Any]

NAME = f"{PREFIX}post/ours/1"
DAY = 24 * 3600.0

texts = st.lists(st.sampled_from("abc"), min_size=1, max_size=8)


def batch_of(*texts: str) -> Batch:
    batch = Batch(NAME)
    for text in texts:
        request = prompt(text)
        batch.add(request.digest(), request)
    return batch


# What is in one.


def test_a_call_that_is_taken_out_leaves_no_bytes_and_its_id_is_not_used_again() -> None:
    batch = batch_of("one", "two")
    first = next(iter(batch.entries.values()))

    batch.take_out(first)
    request = prompt("one")
    again = batch.add(request.digest(), request)

    assert batch.size == batch_of("one", "two").size
    assert again.id != first.id
    assert [id for id, _ in batch.calls()] == list(batch.entries)


def test_what_the_provider_has_is_not_held_here_any_more() -> None:
    batch = batch_of("one", "two")

    batch.is_submitted("batch_1")

    assert batch.id == "batch_1"
    assert batch.calls() == []


# Who waits.


class Model:
    """What `Waiters` are to be, in the plainest words: who waits for which entry."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.waiting: dict[int, Entry] = {}

    def unwanted(self) -> list[Entry]:
        return [entry for entry in self.entries if entry not in self.waiting.values()]


steps = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.sampled_from("ab"), st.booleans()),
        st.tuples(st.just("leave"), st.integers(0, 20), st.none()),
        st.tuples(st.just("remove"), st.integers(0, 20), st.none()),
    ),
    max_size=30,
)


@pytest.mark.slow
@given(steps=steps)
def test_every_call_waits_for_one_entry_with_its_digest_and_none_that_is_free_is_passed_over(
    steps: list[tuple[str, Any, Any]],
) -> None:
    waiters, model, batch = Waiters(), Model(), Batch(NAME)

    for serial, (step, what, shared) in enumerate(steps):
        if step == "join":
            digest = prompt(what).digest()
            free = [entry for entry in model.unwanted() if entry.digest == digest]
            entry = waiters.find(digest, shared)
            assert entry in free if free else entry is None or shared
            if entry is None:
                entry = batch.add(digest, prompt(what))
                model.entries.append(entry)
            waiters.join(entry, serial, float(serial), shared)
            model.waiting[serial] = entry
            assert entry.digest == digest
        elif step == "leave":
            entry = model.waiting.pop(what, None)
            left = waiters.leave(what)
            assert left is (entry if entry in model.unwanted() else None)
            if left is not None:
                waiters.offer(left)
        elif what < len(model.entries):
            entry = model.entries.pop(what)
            waiters.remove(entry)
            model.waiting = {one: at for one, at in model.waiting.items() if at is not entry}

        assert waiters.serials() == list(model.waiting)
        assert all(serial in at.asked for serial, at in model.waiting.items())


# Records.


@pytest.mark.slow
@given(texts=texts, elapsed=st.floats(-DAY, 2 * DAY), now=st.floats(0, 1e6))
def test_the_next_process_reads_what_this_one_has_recorded_and_its_time_goes_on(
    texts: list[str], elapsed: float, now: float
) -> None:
    store, wall = Store(), [1e9]
    records = Records(store, store.roots, f"{PREFIX}post/ours/", lambda: wall[0])
    written = batch_of(*texts)

    async def body() -> Batch | None:
        await records.begin(written)
        written.is_submitted("batch_1")
        await records.add_id(written)
        wall[0] += elapsed
        return await records.read(NAME, now, DAY)

    read = asyncio.run(body())

    assert read is not None
    assert (read.name, read.id) == (NAME, "batch_1")
    assert [(entry.id, entry.digest) for entry in read.entries.values()] == [
        (entry.id, entry.digest) for entry in written.entries.values()
    ]
    # A clock that was set back gives it no more time than a new batch has.
    assert read.deadline - now == pytest.approx(DAY - max(0.0, elapsed), abs=1e-3)


def test_a_record_without_the_providers_id_was_not_submitted_for_all_that_is_known(run: Run) -> None:
    store = Store()
    records = Records(store, store.roots, f"{PREFIX}post/ours/", lambda: 0.0)

    async def body() -> None:
        await records.begin(batch_of("one"))

        assert records.names() == [NAME]
        assert await records.read(NAME, 0.0, DAY) is None

        records.forget(NAME)
        assert records.names() == []

    run(body())


# Lines of results.


def line(result: Any) -> bytes:
    return msgspec.json.encode({"custom_id": "a", "result": result})


ASKED = Asked(provider="post", task="give the results of batch 'b1'")
REPLY = {"content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn"}


@pytest.mark.parametrize(
    "result",
    [
        {"type": "succeeded"},
        {"type": "succeeded", "message": {"content": "no blocks"}},
        {"type": "succeeded", "message": 7},
        {"type": 7},
        "succeeded",
        None,
    ],
)
def test_a_result_that_makes_no_sense_is_the_failure_of_its_call_alone(result: Any) -> None:
    id, outcome = read_result(ASKED, {}, line(result))

    assert id == "a"
    assert isinstance(outcome, ProviderError)


@pytest.mark.parametrize(
    "raw, error",
    [(b"<html>", BadOutput), (b'{"result":{}}', BadOutput), (line(REPLY)[:-5], ProviderConnection)],
)
def test_a_line_that_names_no_call_is_an_error(raw: bytes, error: type[ProviderError]) -> None:
    with pytest.raises(error, match="post could not give the results of batch 'b1'"):
        read_result(ASKED, {}, raw)


@given(cut=st.integers(0, len(line({"type": "succeeded", "message": REPLY}))))
def test_however_a_line_is_cut_it_is_never_taken_for_a_reply(cut: int) -> None:
    whole = line({"type": "succeeded", "message": REPLY})
    if cut == len(whole):
        outcome = read_result(ASKED, {}, whole)[1]
        assert isinstance(outcome, Completion)
        assert (outcome.text, outcome.source) == ("Hi", "batch")
        return

    with pytest.raises(ProviderConnection):
        read_result(ASKED, {}, whole[:cut])
