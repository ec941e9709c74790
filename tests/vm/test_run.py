"""run(main, *args): the loop, the result, and what it refuses."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from avm.errors import VMError
from avm.vm import run


def test_run_returns_what_the_coroutine_function_returns() -> None:
    async def main(a: int, b: int) -> int:
        return a + b

    assert run(main, 1, 2) == 3


def test_run_is_on_uvloop_where_it_is_installed_and_on_asyncio_if_told_so() -> None:
    async def main() -> str:
        return type(asyncio.get_running_loop()).__module__

    pytest.importorskip("uvloop")
    assert run(main).startswith("uvloop")
    assert run(main, loop="uvloop").startswith("uvloop")
    assert run(main, loop="asyncio").startswith("asyncio")


def test_run_puts_the_signal_handlers_back() -> None:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]

    async def main() -> list[Any]:
        return [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]

    during = run(main)

    assert during[0] is not before[0]
    assert during[1] is not before[1]
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_run_lets_an_error_of_the_program_through() -> None:
    async def main() -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        run(main)


def test_run_refuses_a_coroutine_and_says_how_to_call_it() -> None:
    async def main() -> None:
        pass

    with pytest.raises(VMError, match=r"got a coroutine. Write run\(.*main, ...\) without calling it"):
        run(main())  # type: ignore[arg-type]
    with pytest.raises(VMError, match="got 7"):
        run(7)  # type: ignore[arg-type]


def test_run_refuses_a_loop_it_does_not_know() -> None:
    async def main() -> None:
        pass

    with pytest.raises(VMError, match="loop must be one of auto, uvloop, asyncio, got 'trio'"):
        run(main, loop="trio")  # type: ignore[arg-type]
