"""Tool calls through the gate: whatever a tool does, the model gets something it can read."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from avm.errors import ToolError
from avm.io import ToolOutcome
from avm.tools import Tool, tool
from avm.tools.runner import as_text, shorten
from tests.tools.gated import gated

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@tool
async def count_words(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())


@tool
def where() -> str:
    """Tell the thread it runs in."""
    return threading.current_thread().name


@tool
async def fails() -> None:
    """Fail."""
    raise KeyError("no such city")


@tool(timeout=0.01)
async def hangs() -> None:
    """Hang."""
    await asyncio.Event().wait()


@tool
async def times_out_itself() -> None:
    """Give up by itself."""
    raise TimeoutError("upstream took too long")


@tool
async def leaves() -> None:
    """Leave."""
    sys.exit(3)


@tool(output_limit=200)
async def talks() -> str:
    """Talk."""
    return "a" * 500 + "z" * 500


def outcome_of(run: Run, wanted: Tool, arguments: str = "{}") -> ToolOutcome:
    async def body() -> ToolOutcome:
        async with gated() as gate:
            return await gate.call(wanted, arguments)

    found: ToolOutcome = run(body())
    return found


def test_a_result_becomes_a_tool_message(run: Run) -> None:
    outcome = outcome_of(run, count_words, '{"text": "one two three"}')

    assert outcome.message == {
        "role": "tool",
        "content": "3",
        "tool_call_id": "c1",
        "name": "count_words",
    }
    assert not outcome.failed


def test_a_plain_function_runs_in_a_thread(run: Run) -> None:
    assert outcome_of(run, where).content != threading.main_thread().name


def test_wrong_arguments_are_told_to_the_model(run: Run) -> None:
    outcome = outcome_of(run, count_words, '{"txt": "one"}')

    assert outcome.failed
    assert "missing required field `text`" in outcome.content or "unknown field `txt`" in outcome.content
    assert outcome.message["is_error"] is True


def test_an_exception_is_told_to_the_model_without_a_traceback(run: Run) -> None:
    outcome = outcome_of(run, fails)

    assert outcome.content == "fails failed: KeyError: 'no such city'"
    assert outcome.failed


def test_a_tool_that_takes_too_long_is_given_up(run: Run) -> None:
    outcome = outcome_of(run, hangs)

    assert outcome.content == "hangs gave no answer in 0.01 s and was given up."
    assert outcome.failed


def test_a_timeout_inside_a_tool_is_not_taken_for_its_own(run: Run) -> None:
    outcome = outcome_of(run, times_out_itself)

    assert outcome.content == "times_out_itself failed: TimeoutError: upstream took too long"


def test_a_long_result_loses_its_middle_and_says_so(run: Run) -> None:
    outcome = outcome_of(run, talks)

    assert outcome.content.startswith("aaa")
    assert outcome.content.endswith("zzz")
    assert "[... 800 of 1000 characters cut ...]" in outcome.content
    assert outcome.cut == 800


def test_a_tool_that_exits_ends_its_worker_and_the_gate_answers_for_it(run: Run) -> None:
    async def body() -> None:
        async with gated() as gate:
            with pytest.raises(ToolError) as caught:
                await gate.call(leaves)
            assert "ended (SystemExit: 3) before it answered tool 'leaves'" in str(caught.value)

            assert (await gate.call(count_words, '{"text": "still here"}')).content == "2"
            found = await gate.status()
            assert (found.calls, found.failed, found.crashed_workers) == (2, 1, 1)

    run(body())


@pytest.mark.parametrize(
    "value, text",
    [
        ("plain", "plain"),
        (None, ""),
        (3, "3"),
        ([1, "é"], '[1,"é"]'),
        ({"a": 1}, '{"a":1}'),
        (b"bytes\xff", "bytes�"),
        (3j, "3j"),
    ],
)
def test_any_value_can_be_put_in_words(value: object, text: str) -> None:
    assert as_text(value) == text


def test_a_text_at_the_limit_is_left_whole() -> None:
    assert shorten("x" * 200, 200) == ("x" * 200, 0)
