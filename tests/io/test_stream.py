"""The text of a reply while it comes: once, in order, and taken back where another attempt says something else."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.actors import Kernel
from avm.actors.event import seal
from avm.errors import ProviderConnection
from avm.io.providers.provider import Delta, Started
from avm.io.request import Completion, encode_fragment
from avm.io.stream import ModelStream, Piece, Restart, StreamReady, to_actor
from avm.testing.probe import ProbeActor

Run = Callable[[Coroutine[Any, Any, Any]], Any]

CUT = ProviderConnection("the line broke", "scripted", "m")


def reply(text: str, *arguments: str) -> Completion:
    calls = [{"id": f"c{n}", "name": "look", "arguments": each} for n, each in enumerate(arguments)]
    message: dict[str, Any] = {"role": "assistant", "content": text}
    return Completion(encode_fragment({**message, "tool_calls": calls} if calls else message))


def filled(*texts: str) -> ModelStream:
    stream = ModelStream()
    stream.attempt()
    for text in texts:
        stream.push(Delta(text))
    return stream


@attrs.define
class Reader:
    """Puts together what a stream tells; `given` has every character that came, also those taken back."""

    stream: ModelStream
    text: str = ""
    blocks: list[tuple[str, int]] = attrs.Factory(list)
    given: int = 0

    def read(self) -> None:
        for told in self.stream.read_nowait():
            if isinstance(told, Restart):
                assert told.offset < len(self.text)
                self.given -= len(self.text) - told.offset
                del self.blocks[told.offset :]
                self.text = self.text[: told.offset]
            else:
                assert told.offset == len(self.text)
                assert told.text
                self.text += told.text
                self.blocks += [(told.kind, told.block)] * len(told.text)
                self.given += len(told.text)


# What is read.


def test_what_came_since_the_last_read_is_one_piece() -> None:
    stream = filled("Good ", "day", ".")

    assert stream.read_nowait() == [Piece(0, "Good day.")]
    assert stream.read_nowait() == []
    stream.push(Delta(" How"))
    stream.push(Delta(" are you?"))
    assert stream.read_nowait() == [Piece(9, " How are you?")]


def test_blocks_are_pieces_of_their_own_on_one_scale_of_offsets() -> None:
    stream = ModelStream()

    stream.push(Started("req_1"))
    stream.push(Delta("hm", "thinking", 0))
    stream.push(Delta("Let me look.", "text", 1))
    stream.push(Delta('{"n"', "tool", 2))
    stream.push(Delta(": 1}", "tool", 2))
    stream.push(Delta("{}", "tool", 3))

    assert stream.read_nowait() == [
        Piece(0, "hm", "thinking", 0),
        Piece(2, "Let me look.", "text", 1),
        Piece(14, '{"n": 1}', "tool", 2),
        Piece(22, "{}", "tool", 3),
    ]


def test_a_long_reply_in_small_deltas_is_one_piece_for_a_slow_reader() -> None:
    stream = filled(*("ab" for _ in range(3000)))

    assert stream.read_nowait() == [Piece(0, "ab" * 3000)]


def test_a_reply_that_came_in_one_piece_is_told_when_it_is_finished() -> None:
    stream = ModelStream()
    stream.attempt()

    stream.finish(reply("Let me look.", '{"n": 1}', "{}"))

    assert stream.read_nowait() == [
        Piece(0, "Let me look."),
        Piece(12, '{"n": 1}', "tool", 1),
        Piece(20, "{}", "tool", 2),
    ]


def test_what_comes_after_the_end_is_ignored() -> None:
    stream = filled("Good day.")
    stream.finish(reply("Good day."))
    stream.read_nowait()

    stream.attempt()
    stream.push(Delta("late"))
    stream.finish(reply("late"))
    stream.fail(CUT)

    assert stream.read_nowait() == []
    assert stream.completion == reply("Good day.")
    assert stream.error is None


# Another attempt.


def test_an_attempt_that_says_the_same_tells_only_what_is_new() -> None:
    stream = filled("Good d")
    stream.read_nowait()

    stream.attempt()
    stream.push(Delta("Go"))
    assert stream.read_nowait() == []
    stream.push(Delta("od day."))

    assert stream.read_nowait() == [Piece(6, "ay.")]


def test_an_attempt_that_differs_takes_back_what_follows_the_first_difference() -> None:
    stream = filled("Good day.")
    stream.read_nowait()

    stream.attempt()
    stream.push(Delta("Good evening."))

    assert stream.read_nowait() == [Restart(5), Piece(5, "evening.")]


def test_the_same_text_in_another_block_is_a_difference() -> None:
    stream = filled("hm")
    stream.read_nowait()

    stream.attempt()
    stream.push(Delta("hm", "thinking"))

    assert stream.read_nowait() == [Restart(0), Piece(0, "hm", "thinking")]


def test_an_attempt_that_ends_sooner_takes_back_the_rest() -> None:
    stream = filled("Good day, sir.")
    stream.read_nowait()

    stream.attempt()
    stream.push(Delta("Good day"))
    stream.finish(reply("Good day"))

    assert stream.read_nowait() == [Restart(8)]


def test_text_of_a_broken_attempt_that_nobody_has_read_is_replaced_in_silence() -> None:
    stream = filled("Good day.")

    stream.attempt()
    stream.push(Delta("Hello."))

    assert stream.read_nowait() == [Piece(0, "Hello.")]


def test_two_differences_between_two_reads_are_one_restart_from_the_first_of_them() -> None:
    stream = filled("Good day.")
    stream.read_nowait()

    for text in ("Good evening.", "Go away."):
        stream.attempt()
        stream.push(Delta(text))

    assert stream.read_nowait() == [Restart(2), Piece(2, " away.")]


words = st.text(alphabet="ab", max_size=12)
kinds = st.sampled_from([("text", 0), ("thinking", 0), ("text", 1)])
deltas = st.lists(st.tuples(words, kinds, st.booleans()), max_size=8)


@pytest.mark.slow
@given(attempts=st.lists(deltas, min_size=1, max_size=5))
def test_a_reader_has_the_last_attempt_whenever_it_reads_and_gets_nothing_twice(
    attempts: list[list[tuple[str, tuple[Any, int], bool]]],
) -> None:
    stream = ModelStream()
    reader = Reader(stream)

    for attempt in attempts:
        stream.attempt()
        for text, (kind, block), reads in attempt:
            stream.push(Delta(text, kind, block))
            if reads:
                reader.read()
    stream.finish(reply(""))
    reader.read()

    assert reader.text == "".join(text for text, _, _ in attempts[-1])
    assert reader.blocks == [block for text, block, _ in attempts[-1] for _ in text]
    assert reader.given == len(reader.text)


@pytest.mark.slow
@given(text=words, cuts=st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=6))
def test_attempts_at_one_text_never_take_anything_back(text: str, cuts: list[tuple[int, bool]]) -> None:
    stream = ModelStream()
    told: list[Piece | Restart] = []

    for cut, reads in [*cuts, (len(text), True)]:
        stream.attempt()
        for character in text[:cut]:
            stream.push(Delta(character))
        if reads:
            told += stream.read_nowait()

    assert "".join(each.text for each in told if isinstance(each, Piece)) == text
    assert not any(isinstance(each, Restart) for each in told)


# Who waits.


def test_a_loop_over_a_stream_gets_the_text_as_it_comes_and_ends_with_it(run: Run) -> None:
    async def body() -> None:
        stream = ModelStream()
        told: list[Piece | Restart] = []

        async def listen() -> None:
            async for each in stream:
                told.append(each)

        listening = asyncio.ensure_future(listen())
        for text in ("Good ", "day."):
            stream.push(Delta(text))
            while not told or told[-1].text != text:  # type: ignore[union-attr]
                await asyncio.sleep(0)
        stream.finish(reply("Good day."))
        await listening

        assert told == [Piece(0, "Good "), Piece(5, "day.")]

    run(body())


def test_a_loop_over_a_stream_that_fails_gets_the_text_first_and_then_the_error(run: Run) -> None:
    async def body() -> None:
        stream = filled("Good ")
        stream.fail(CUT)
        told = []

        with pytest.raises(ProviderConnection, match="the line broke"):
            async for each in stream:
                told.append(each)

        assert told == [Piece(0, "Good ")]

    run(body())


def test_the_result_can_be_waited_for_by_many_and_takes_no_text_from_the_reader(run: Run) -> None:
    async def body() -> None:
        stream = filled("Good day.")
        waiting = [asyncio.ensure_future(stream.result()) for _ in range(2)]
        await asyncio.sleep(0)

        stream.finish(reply("Good day."))

        assert await asyncio.gather(*waiting) == [reply("Good day.")] * 2
        assert stream.read_nowait() == [Piece(0, "Good day.")]

    run(body())


def test_the_result_of_a_stream_that_failed_is_its_error(run: Run) -> None:
    async def body() -> None:
        stream = ModelStream()
        stream.fail(CUT)

        with pytest.raises(ProviderConnection, match="the line broke"):
            await stream.result()

    run(body())


def test_a_listener_is_called_once_between_two_reads() -> None:
    calls: list[int] = []
    stream = ModelStream(lambda: calls.append(1))

    stream.push(Delta("Good "))
    stream.push(Delta("day."))
    assert len(calls) == 1
    stream.read_nowait()
    assert len(calls) == 1
    stream.finish(reply("Good day."))

    assert len(calls) == 2


def test_a_listener_hears_nothing_of_text_that_it_has_already() -> None:
    calls: list[int] = []
    stream = ModelStream(lambda: calls.append(1))
    stream.push(Delta("Good "))
    stream.read_nowait()

    stream.attempt()
    stream.push(Delta("Good "))

    assert len(calls) == 1


def test_an_actor_is_told_that_there_is_something_to_read(run: Run) -> None:
    async def body() -> None:
        async with Kernel() as kernel:
            kept: list[Any] = []
            stream = to_actor(await kernel.spawn(ProbeActor, kept, None), kernel.tell)

            stream.push(Delta("Good "))
            stream.push(Delta("day."))
            await kernel.idle()

            (ready,) = kept
            assert ready == StreamReady(stream)
            assert ready.stream.read_nowait() == [Piece(0, "Good day.")]

    run(body())


def test_a_stream_travels_in_an_event_as_it_is() -> None:
    stream = ModelStream()

    sealed, _ = seal(StreamReady(stream))

    assert sealed.stream is stream  # type: ignore[attr-defined]


def test_a_stream_shows_how_much_was_read_and_not_what() -> None:
    stream = filled("secret")
    stream.read_nowait()
    stream.push(Delta("more"))

    assert repr(stream) == "<ModelStream open, 6 characters read, 4 to read>"
