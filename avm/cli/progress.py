"""Progress: how far a command is, and what it has to say meanwhile, on standard error."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Bar:
    """Shows how far it is, if somebody looks: a bar on standard error that is gone when it is over."""

    def __init__(self) -> None:
        self._is_seen = sys.stderr.isatty()
        self._bar: Any = None
        self._what = ""

    def __call__(self, what: str, part: float) -> None:
        if not self._is_seen:
            return
        if what != self._what:
            self._begin(what)
        if self._bar is not None:
            self._bar.update(max(0.0, part * 100 - self._bar.n))

    def _begin(self, what: str) -> None:
        from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]

        self.clear()
        self._what = what
        self._bar = tqdm(
            total=100,
            desc=what,
            bar_format="{desc} {percentage:3.0f}% {bar} {elapsed}",
            file=sys.stderr,
            leave=False,
            delay=0.5,
            disable=None,
        )

    def say(self, line: str) -> None:
        """Write a line to standard error, and go on below."""
        self.clear()
        print(line, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
        self._bar, self._what = None, ""

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()


def say(line: str, status: int) -> int:
    """Write a line to standard error, and return the exit status that goes with it."""
    print(line, file=sys.stderr, flush=True)
    return status
