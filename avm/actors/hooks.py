"""Reports: what the kernel tells an operator, as values first and text second (S76).

An observer is any callable that takes a report; `Kernel.observers` lists them. With no observer a report costs one
branch. Observers run inside the runtime: they must be quick and must not raise; one that raises is removed and logged.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs


@attrs.frozen(slots=True, kw_only=True)
class Report:
    """What all reports share: `at` is the VM's monotonic clock in seconds."""

    at: float


@attrs.frozen(slots=True, kw_only=True)
class CrashReport(Report):
    """An actor ended abnormally."""

    pid: str
    path: str
    actor_class: str
    reason: object
    trace: str
    last_message: str
    last_sender: str | None
    state: str
    mailbox: int
    mailbox_types: tuple[str, ...]
    links: tuple[str, ...]
    ancestors: tuple[str, ...]
    trap_exit: bool
    uptime: float
    handled: int


@attrs.frozen(slots=True, kw_only=True)
class DeadLetter(Report):
    """An event nobody took; `why` is one of the router's reasons."""

    why: str
    dest: str
    sender: str | None
    event: object


@attrs.frozen(slots=True, kw_only=True)
class MailboxWater(Report):
    """A mailbox rose above its high mark (`high` true) or fell below its low one (S11)."""

    path: str
    length: int
    high: bool


@attrs.frozen(slots=True, kw_only=True)
class LimitReport(Report):
    """An actor broke one of its limits (S10 kill, S12)."""

    path: str
    limit: str
    found: int
    allowed: int


@attrs.frozen(slots=True, kw_only=True)
class ZombieReport(Report):
    """A killed actor's handler still runs after the grace time (S94)."""

    path: str
    age: float
    stack: str


@attrs.frozen(slots=True, kw_only=True)
class WatchdogReport(Report):
    """One handler holds the loop (S96): for how long, which, and where it is."""

    path: str
    event: str
    lag: float
    stack: str
    interrupted: bool


Observer = Callable[[Report], None]
