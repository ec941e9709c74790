"""Recorded conversations: read, looked up by position, written again."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
import zstandard

from avm.errors import BadOutput, WorkloadError
from avm.io import ModelRequest, RecordedProvider, Recordings, decode_fragment, encode_fragment

Run = Callable[[Coroutine[Any, Any, Any]], Any]

CALL = {"id": "c1", "name": "sql", "arguments": "SELECT  1 "}
RECORD: dict[str, Any] = {
    "id": "a/1",
    "source": "x/y@z",
    "licence": "MIT",
    "model": "gpt-4",
    "system": "Be brief.",
    "tools": [{"name": "sql"}],
    "messages": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "name": "sql", "content": "1"},
        {"role": "assistant", "content": "One."},
    ],
    "meta": {"n": 1},
}


def at(recordings: Recordings, index: int, position: int) -> ModelRequest:
    recording = recordings[index]
    return ModelRequest(model="m", messages=recording.fragments[:position], label=recording.key, agent="a")


def test_the_reply_is_the_recorded_one_at_the_position(run: Run) -> None:
    async def body() -> None:
        recordings = Recordings([RECORD])
        provider = RecordedProvider(recordings)

        first = await provider.complete(at(recordings, 0, 1))
        last = await provider.complete(at(recordings, 0, 3))

        assert first.message == RECORD["messages"][1]
        assert first.tool_calls[0].arguments == "SELECT  1 "
        assert first.stop_reason == "tool_use"
        assert (last.text, last.stop_reason) == ("One.", "end_turn")

    run(body())


@pytest.mark.parametrize(
    "position, why",
    [
        (0, "a message of role 'u', not an assistant's"),
        (2, "a message of role 't'"),
        (4, "the end, not an assistant's"),
    ],
)
def test_a_position_without_a_reply_is_an_error_that_says_what_is_there(
    run: Run, position: int, why: str
) -> None:
    async def body() -> None:
        recordings = Recordings([RECORD])
        with pytest.raises(BadOutput) as caught:
            await RecordedProvider(recordings).complete(at(recordings, 0, position))
        assert why in str(caught.value)

    run(body())


def test_an_unknown_conversation_is_an_error(run: Run) -> None:
    async def body() -> None:
        with pytest.raises(BadOutput, match="no such conversation is recorded"):
            await RecordedProvider(Recordings([])).complete(ModelRequest(model="m", label="nobody"))

    run(body())


def test_two_records_of_one_id_and_one_without_have_keys_of_their_own() -> None:
    nameless = {name: value for name, value in RECORD.items() if name != "id"}

    recordings = Recordings([RECORD, RECORD, nameless])

    assert [r.key for r in recordings] == ["a/1", "a/1~2", "conversation~3"]


def test_a_record_is_written_as_it_was_read() -> None:
    recording = Recordings([RECORD])[0]

    again = recording.record([recording.message(n) for n in range(len(recording))])

    assert json.dumps(again) == json.dumps(RECORD)


def test_equal_prompts_and_tools_are_kept_once() -> None:
    one, other = Recordings([json.loads(json.dumps(RECORD)), json.loads(json.dumps(RECORD))])

    assert one.system is other.system
    assert one.tools is other.tools


@pytest.mark.parametrize(
    "change, says",
    [
        ({"messages": None}, "messages must be a list, got None"),
        ({"messages": [3]}, "messages[0] must be an object, got 3"),
        (
            {"messages": [{"role": "system", "content": ""}]},
            "messages[0].role must be 'user', 'assistant' or 'tool'",
        ),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content must be text, got None"),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "x"}]}]},
            "messages[0].tool_calls[0].name must be text, got None",
        ),
        (
            {"messages": [{"role": "assistant", "content": "", "tool_calls": 1}]},
            "tool_calls must be a list, got 1",
        ),
        ({"system": 5}, "system must be text, got 5"),
    ],
)
def test_a_record_that_is_no_conversation_is_refused_with_the_place(
    change: dict[str, Any], says: str
) -> None:
    with pytest.raises(WorkloadError) as caught:
        Recordings([RECORD, {**RECORD, **change}])

    assert str(caught.value).startswith("conversation 2: ")
    assert says in str(caught.value)


def test_something_that_is_no_object_is_refused() -> None:
    with pytest.raises(WorkloadError, match="conversation 1 must be a JSON object, got list"):
        Recordings([[]])  # type: ignore[list-item]


def test_half_a_surrogate_pair_survives() -> None:
    message = {"role": "user", "content": "broken \ud83d emoji"}

    assert decode_fragment(encode_fragment(message)) == message


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tau_airline", "intercode", "mint", "swe_agent_java"])
def test_every_recorded_line_comes_back_byte_for_byte(data_dir: Path, name: str) -> None:
    lines = zstandard.ZstdDecompressor().stream_reader((data_dir / f"{name}.jsonl.zst").read_bytes()).read()
    wanted = [line for line in lines.split(b"\n") if line]

    recordings = Recordings(json.loads(line) for line in wanted)

    for recording, line in zip(recordings, wanted, strict=True):
        record = recording.record(decode_fragment(fragment) for fragment in recording.fragments)
        assert json.dumps(record, ensure_ascii=False).encode() == line
