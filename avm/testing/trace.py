"""The trace of a simulation: what happened, to whom, when on the virtual clock, and which decision led to it.

An entry keeps the objects themselves and is put in words only when someone reads it, so a long run costs little.
The words are the same in every process: no addresses, no order of a set, no number that the process gave out.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Set
from typing import TYPE_CHECKING, Literal

import attrs

from avm.actors.cell import Cell
from avm.actors.hooks import DeadLetter, Report
from avm.actors.reasons import describe
from avm.actors.ref import Pid, Ref
from avm.supervision import SupervisorReport

if TYPE_CHECKING:
    from avm.testing.choices import Schedule

KEPT = 500_000
"""Entries kept; older ones are forgotten."""

TEXT = 200
"""Characters of an event or a reason in a line."""

Kind = Literal["start", "failed", "handle", "send", "end", "run", "report", "fault", "call", "note"]

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


@attrs.frozen(slots=True)
class Entry:
    """One thing that happened.

    Attributes:
        at: virtual seconds.
        kind: "start" and "end" of an actor, "failed" start; "send" to it, "handle" by it; "run" for other work of it;
            "fault" injected; "call" answered; "report" to observers; "note" of the test.
        actor: whose; None if there is no such actor, or it is known by its place alone.
        what: the event, the exit reason, or text.
        peer: who sent it.
        decision: number, choice and size of the decision it followed from, if one was made since the last entry.
        place: a path, or another name for where it happened.
    """

    at: float
    kind: Kind
    actor: Cell | None
    what: object
    peer: Cell | None
    decision: tuple[int, int, int] | None
    place: str = ""

    @property
    def path(self) -> str:
        """The path of the actor, or the place."""
        return self.actor.path if self.actor is not None else self.place

    def __str__(self) -> str:
        number = f"#{self.decision[0]} {self.decision[1] + 1}/{self.decision[2]}" if self.decision else ""
        return f"{self.at:12.6f}  {number:<12} {self.path:<24} {self.words()}".rstrip()

    def words(self) -> str:
        """Say what happened."""
        sender = f" from {self.peer.pid_text}" if self.peer is not None else ""
        return _WORDS[self.kind](self.what) + sender


_WORDS: dict[str, Callable[[object], str]] = {
    "start": lambda what: f"started as {what}",
    "failed": lambda what: f"did not start: {reason(what)}",
    "handle": lambda what: f"handles {stable(what)}",
    "send": lambda what: f"is sent {stable(what)}",
    "end": lambda what: f"ended: {reason(what)}",
    "run": str,
    "report": lambda what: _report(what),
    "fault": lambda what: f"FAULT {stable(what)}",
    "call": lambda what: f"answer to {what}",
    "note": str,
}


class Trace:
    """The entries of one run, oldest first."""

    def __init__(self, now: Callable[[], float], schedule: Schedule, kept: int = KEPT) -> None:
        self._now = now
        self._schedule = schedule
        self._entries: deque[Entry] = deque(maxlen=kept)
        self._seen = 0
        self.count = 0

    def add(self, kind: Kind, actor: Cell | str | None, what: object, peer: Cell | None = None) -> None:
        """Add what happens now; the decision made since the last entry is named in it."""
        schedule = self._schedule
        number = len(schedule.taken)
        decision = None
        if number != self._seen:
            self._seen = number
            decision = (number - 1, schedule.taken[-1], schedule.sizes[-1])
        self.count += 1
        cell, place = (None, actor) if isinstance(actor, str) else (actor, "")
        self._entries.append(Entry(self._now(), kind, cell, what, peer, decision, place))

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def of(self, path: str, kind: Kind | None = None) -> list[Entry]:
        """Return the entries of whoever lived at a path, of one kind or all."""
        return [e for e in self._entries if (kind is None or e.kind == kind) and e.path == path]

    def text(self) -> str:
        """Put all of it in words, a line each; the same for the same seed, byte for byte."""
        return "".join(f"{entry}\n" for entry in self._entries)


def _report(what: object) -> str:
    if isinstance(what, SupervisorReport):
        return reason(what)
    if isinstance(what, DeadLetter):
        return f"dead letter ({what.why}): {stable(what.event)} to {what.dest}"
    return f"report {stable(what)}"


def reason(what: object) -> str:
    """Put an exit reason or a report in words that do not change from run to run."""
    try:
        text = str(what) if isinstance(what, Report) else describe(what)
    except Exception as error:
        text = f"{type(what).__name__} (its text failed with {type(error).__name__})"
    return _cut(_ADDRESS.sub("", " ".join(text.split())))


def stable(what: object, *, limit: int = TEXT, depth: int = 4) -> str:
    """Show a value in words that are the same in every process.

    Args:
        limit: characters; what is longer is cut. depth: of values in values that are shown.
    """
    return _cut(_stable(what, depth), limit)


def _cut(text: str, limit: int = TEXT) -> str:
    return text if len(text) <= limit else f"{text[: limit - 20]}... ({len(text)} in all)"


def _stable(what: object, depth: int) -> str:
    kind = type(what)
    if kind in (int, float, bool, type(None)):
        return repr(what)
    if isinstance(what, (str, bytes)):
        return repr(what) if len(what) <= TEXT else f"{what[: TEXT // 2]!r}... ({len(what)} in all)"
    if depth == 0:
        return "..."
    if isinstance(what, (Pid, Ref)):
        return str(what)
    if isinstance(what, BaseException):
        return _ADDRESS.sub("", describe(what))
    if isinstance(what, Mapping):
        return (
            "{"
            + ", ".join(f"{_stable(k, depth - 1)}: {_stable(v, depth - 1)}" for k, v in what.items())
            + "}"
        )
    if isinstance(what, Set):
        return f"{kind.__name__}({', '.join(sorted(_stable(item, depth - 1) for item in what))})"
    if isinstance(what, (list, tuple)):
        return f"({', '.join(_stable(item, depth - 1) for item in what)})"
    if isinstance(what, type):
        return what.__qualname__
    if attrs.has(kind):
        shown = (f"{f.name}={_stable(getattr(what, f.name, None), depth - 1)}" for f in attrs.fields(kind))
        return f"{kind.__name__}({', '.join(shown)})"
    try:
        return _ADDRESS.sub("", repr(what))
    except Exception as error:
        return f"<{kind.__name__}: its repr failed with {type(error).__name__}>"


__all__ = ["Entry", "Trace", "reason", "stable"]
