"""Blocking functions without threads: they run in place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any


class InPlace(Executor):
    """An executor without threads: what it is given is done when it returns."""

    def submit(self, function: Any, /, *args: Any, **options: Any) -> Future[Any]:
        """Do it now."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **options))
        except Exception as error:
            future.set_exception(error)
        return future


def complete(result: asyncio.Future[Any], function: Callable[[], Any]) -> None:
    """Call a function and put what comes of it in a future, unless nobody waits for it any more."""
    if result.done():
        return
    try:
        result.set_result(function())
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        result.set_exception(error)
