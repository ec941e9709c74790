"""Crash reports: what an operator wants to know of an abnormal end, bounded, redacted by the actor (S76, S77)."""

from __future__ import annotations

import traceback
from collections import Counter
from typing import TYPE_CHECKING

import attrs

from avm.actors.hooks import CrashReport
from avm.actors.reasons import describe

if TYPE_CHECKING:
    from avm.actors.cell import Cell

MESSAGE_CHARACTERS = 500
STATE_CHARACTERS = 1000
TRACE_CHARACTERS = 20_000
MAILBOX_TYPES = 10


def crash_report(cell: Cell, reason: object, at: float) -> CrashReport:
    """Take the picture of an actor that is about to end. Never raises."""
    current = cell.current
    return CrashReport(
        at=at,
        pid=cell.pid_text,
        path=cell.path,
        actor_class=cell.behaviour.cls.__qualname__,
        reason=reason,
        trace=_trace(reason),
        last_message=outline(current[0]) if current is not None else "",
        last_sender=current[1].pid_text if current is not None and current[1] is not None else None,
        state=_state(cell),
        mailbox=cell.length(),
        mailbox_types=_types(cell),
        links=tuple(peer.pid_text for peer in list(cell.links or ())[:20]),
        ancestors=_ancestors(cell),
        trap_exit=bool(cell.actor is not None and cell.actor.trap_exit),
        uptime=at - cell.born,
        handled=cell.handled,
    )


def outline(event: object) -> str:
    """Show an event in one bounded line: its type and the sizes or short values of its fields. Never raises."""
    kind = type(event)
    if not attrs.has(kind):
        return shorten(_safe_repr(event), MESSAGE_CHARACTERS)
    parts = []
    for field in attrs.fields(kind):
        value = getattr(event, field.name, None)
        if isinstance(value, (str, bytes)) and len(value) > 60:
            unit = "characters" if isinstance(value, str) else "bytes"
            parts.append(f"{field.name}=<{len(value)} {unit}>")
        else:
            parts.append(f"{field.name}={shorten(_safe_repr(value), 80)}")
    return shorten(f"{kind.__name__}({', '.join(parts)})", MESSAGE_CHARACTERS)


def shorten(text: str, limit: int) -> str:
    """Cut a text to a length and say that it was cut."""
    return text if len(text) <= limit else f"{text[: limit - 20]}... ({len(text)} in all)"


def _trace(reason: object) -> str:
    if not isinstance(reason, BaseException):
        return ""
    try:
        return shorten("".join(traceback.format_exception(reason)), TRACE_CHARACTERS)
    except BaseException as error:
        return f"(no trace: {type(error).__name__} while it was made)"


# A describe() that raises, whatever it raises, must neither lose the report nor hurt anyone (S77, S99).
def _state(cell: Cell) -> str:
    if cell.actor is None:
        return ""
    try:
        return shorten(repr(cell.actor.describe()), STATE_CHARACTERS)
    except BaseException as error:
        return f"(describe() failed: {shorten(describe(error), 100)})"


def _safe_repr(value: object) -> str:
    try:
        return repr(value)
    except BaseException as error:
        return f"<{type(value).__name__}: its repr failed with {type(error).__name__}>"


def _types(cell: Cell) -> tuple[str, ...]:
    counts = Counter(type(letter[0]).__name__ for letter in cell.letters())
    return tuple(f"{name} x{n}" for name, n in counts.most_common(MAILBOX_TYPES))


def _ancestors(cell: Cell) -> tuple[str, ...]:
    found = []
    parent = cell.parent
    while parent is not None and parent.parent is not None:
        found.append(parent.pid_text)
        parent = parent.parent
    return tuple(found)
