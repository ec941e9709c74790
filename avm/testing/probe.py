"""Actors for tests: a probe, which keeps whatever it is sent, and one that does nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from avm.actors import Actor, Exit, Ref, on
from avm.actors.signals import Down

E = TypeVar("E")

Answer = Callable[[Any], Any]


class Idle(Actor):
    """Takes any event and does nothing; a child for trees whose supervision is under test."""

    def unhandled(self, event: Any) -> None:
        """Take it."""


class ProbeActor(Actor):
    """Keeps events, and answers asks with what `answer` makes of them."""

    trap_exit = True

    def __init__(self, kept: list[Any], answer: Answer | None) -> None:
        self.kept = kept
        self.answer = answer

    def unhandled(self, event: Any) -> Any:
        """Keep any event."""
        self.kept.append(event)
        return self.answer(event) if self.answer is not None else None

    @on(Down, Exit)
    def hear(self, event: Any) -> None:
        """Keep the end of somebody."""
        self.kept.append(event)


class Probe:
    """A probe and what it was sent; made by `sim.probe()`. Give `probe.ref` to the actors under test."""

    def __init__(self, wait: Callable[[Callable[[], object], float], None], answer: Answer | None) -> None:
        self.events: list[Any] = []
        self.ref: Ref
        self.answer = answer
        self._wait = wait

    def take(self) -> list[Any]:
        """Return the events so far and forget them."""
        events, self.events[:] = list(self.events), []
        return events

    def expect(self, kind: type[E], within: float = 60.0) -> E:
        """Wait for the next event of a type, forget it and those before it, and return it.

        Raises:
            AssertionError: none within so many virtual seconds.
        """

        def came() -> bool:
            return any(isinstance(event, kind) for event in self.events)

        came.__qualname__ = f"the arrival of {kind.__name__} at {self.ref.path} (it has {self.events!r})"
        self._wait(came, within)
        for number, event in enumerate(self.events):
            if isinstance(event, kind):
                del self.events[: number + 1]
                return event
        raise AssertionError(came.__qualname__)

    def expect_nothing(self, within: float = 60.0) -> None:
        """Let that much virtual time pass and fail if an event came, or was there before."""
        try:
            self._wait(lambda: bool(self.events), within)
        except AssertionError:
            return
        raise AssertionError(f"{self.ref.path} was to get nothing and got {self.events!r}.")
