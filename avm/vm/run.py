"""`run(main, *args)`: a program from its coroutine function to its exit status."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Callable, Coroutine
from typing import Any, Literal, ParamSpec, TypeVar

from avm.actors.reasons import leaves
from avm.errors import Interrupted, VMError
from avm.vm.body import Body
from avm.vm.signals import StopSignals, signal_name

P = ParamSpec("P")
T = TypeVar("T")

Loop = Literal["auto", "uvloop", "asyncio"]
LOOPS = ("auto", "uvloop", "asyncio")


def run(
    main: Callable[..., Coroutine[Any, Any, T]], *args: Any, loop: Loop = "auto", debug: bool | None = None
) -> T:
    """Run a coroutine function to its end and return its result.

    SIGINT and SIGTERM stop every VM in it in order and then it; a second SIGINT kills (S91). The process
    then ends with status 130 or 143 and one line on stderr that says why.

    Args:
        main: the function itself, not a coroutine; called with `args`.
        loop: "uvloop", "asyncio", or "auto": uvloop where it is installed.
        debug: asyncio's debug mode; None leaves it to PYTHONASYNCIODEBUG.

    Raises:
        VMError: `main` is no coroutine function, `loop` is none of these, or uvloop is asked for and not
            installed.
        SystemExit: a signal ended it.
    """
    _check(main)
    with asyncio.Runner(debug=debug, loop_factory=loop_factory(loop)) as runner:
        try:
            return runner.run(_to_the_end(main, args))
        except BaseException as error:
            interrupted = _interruption(error)
            if interrupted is None:
                raise
            print(f"avm: {interrupted}", file=sys.stderr)
            status = interrupted.status
    raise SystemExit(status)


def loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop; None is asyncio's own choice.

    Raises:
        VMError: no such loop here.
    """
    if loop not in LOOPS:
        raise VMError(f"run: loop must be one of {', '.join(LOOPS)}, got {loop!r}.")
    if loop == "asyncio":
        return None
    try:
        import uvloop
    except ImportError:
        if loop == "uvloop":
            raise VMError("run: loop='uvloop' needs uvloop; install it, or use loop='auto'.") from None
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _to_the_end(main: Callable[..., Coroutine[Any, Any, T]], args: tuple[Any, ...]) -> T:
    task = asyncio.current_task()
    assert task is not None
    body = Body(task)
    signals = StopSignals(lambda signum: body.interrupt())
    with signals.installed():
        try:
            return await main(*args)
        except asyncio.CancelledError as error:
            if not await body.leave(error) or signals.received is None:
                raise
            name = signal_name(signals.received)
            raise Interrupted(f"stopped by {name}.", signals.received) from None


def _check(main: object) -> None:
    if inspect.iscoroutine(main):
        name = main.__qualname__
        main.close()
        raise VMError(
            f"run: main must be a coroutine function, got a coroutine. Write run({name}, ...) without calling it."
        )
    if not callable(main):
        raise VMError(f"run: main must be a coroutine function, got {main!r}. Define it with `async def`.")


def _interruption(error: BaseException) -> Interrupted | None:
    found = list(leaves(error))
    if all(isinstance(e, Interrupted) for e in found):
        first = found[0]
        assert isinstance(first, Interrupted)
        return first
    return None
