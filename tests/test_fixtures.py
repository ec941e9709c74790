"""The `run` fixture sees what a test leaves behind."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


def test_run_returns_the_result_of_the_body(run: Any) -> None:
    async def body() -> int:
        return 42

    assert run(body()) == 42


def test_run_fails_when_a_task_is_left_running(run: Any) -> None:
    async def body() -> asyncio.Task[None]:
        return asyncio.create_task(forever())

    with pytest.raises(AssertionError, match="tasks left running"):
        run(body())


def test_run_fails_when_an_exception_of_a_task_was_never_seen(run: Any) -> None:
    async def fail() -> None:
        raise RuntimeError("boom")

    async def body() -> None:
        asyncio.create_task(fail())  # noqa: RUF006 - nobody keeps it: that is the mistake
        await asyncio.sleep(0)

    with pytest.raises(AssertionError, match="boom"):
        run(body())


def test_run_gives_up_on_a_body_that_hangs(run: Any) -> None:
    with pytest.raises(TimeoutError):
        run(forever(), timeout=0.01)


def test_a_coroutine_that_is_never_awaited_is_a_warning_and_warnings_are_errors(
    pytestconfig: pytest.Config,
) -> None:
    with pytest.warns(RuntimeWarning, match="never awaited"):
        forever()  # type: ignore[unused-coroutine]

    assert pytestconfig.getini("filterwarnings")[0] == "error"
