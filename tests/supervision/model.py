"""A small model of OTP's supervisor, written from the rules and not from avm: no actors, no time, only lists.

It says which lines the probes of `world.py` write, what state each child is in, and whether the supervisor lives, for
any sequence of ends, crashes together, waits and acts of administration. Where two readings were possible it follows
`supervisor.erl`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Pid = Literal["up", "dead", "restarting"] | None


class Kid:
    """A child of the model; "dead" has ended, and the supervisor has not heard of it yet."""

    def __init__(self, id: str, restart: str) -> None:
        self.id = id
        self.restart = restart
        self.pid: Pid = None


class Model:
    """One supervisor without nesting."""

    def __init__(self, strategy: str, intensity: int, period: float, kids: Sequence[tuple[str, str]]) -> None:
        self.strategy = strategy
        self.intensity = intensity
        self.period = period
        self.kids = [Kid(id, restart) for id, restart in kids]
        self.plans: dict[str, list[str]] = {}
        self.lines: list[str] = []
        self.now = 0.0
        self.times: list[float] = []
        self.decisions = 0
        self.alive = True
        for kid in self.kids:
            self._start(kid)

    # What happens to it.

    def wait(self, seconds: float) -> None:
        self.now += seconds

    def end(self, id: str, how: str) -> None:
        """A child ends by itself and the supervisor hears of it."""
        kid = self.find(id)
        if not self.alive or kid is None or kid.pid != "up":
            return
        if how != "killed":
            self.lines.append(f"stop {id}")
        self._hear([(kid, how)])

    def kill_together(self, ids: Sequence[str]) -> None:
        """Children are killed one right after the other, before the supervisor hears of any."""
        if self.alive:
            found = [kid for id in ids if (kid := self.find(id)) is not None and kid.pid == "up"]
            self._hear([(kid, "killed") for kid in found])

    def start_child(self, id: str, restart: str) -> str:
        kid = self.find(id)
        if kid is not None:
            return "AlreadyStarted" if kid.pid == "up" else "AlreadyPresent"
        new = Kid(id, restart)
        if not self._start(new):
            return "StartError"
        if new.pid == "up" or restart != "temporary":
            self.kids.append(new)
        return "ok"

    def restart_child(self, id: str) -> str:
        kid = self.find(id)
        if kid is None:
            return "ChildNotFound"
        if kid.pid == "up":
            return "ChildRunning"
        return "ok" if self._start(kid) else "StartError"

    def terminate_child(self, id: str) -> str:
        kid = self.find(id)
        if kid is None:
            return "ChildNotFound"
        self._stop([kid])
        return "ok"

    def delete_child(self, id: str) -> str:
        kid = self.find(id)
        if kid is None:
            return "ChildNotFound"
        if kid.pid == "up":
            return "ChildRunning"
        self.kids.remove(kid)
        return "ok"

    def states(self) -> dict[str, str]:
        return {kid.id: "up" if kid.pid == "up" else "down" for kid in self.kids}

    def find(self, id: str) -> Kid | None:
        return next((kid for kid in self.kids if kid.id == id), None)

    # What it does.

    def _hear(self, ends: list[tuple[Kid, str]]) -> None:
        for kid, _ in ends:
            kid.pid = "dead"
        retries: list[Kid] = []
        while (ends or retries) and self.alive:
            if ends:
                kid, how = ends.pop(0)
                # A death that a restart of the group has dealt with is no news.
                if kid.pid == "dead":
                    self._ended(kid, how, retries)
            else:
                kid = retries.pop(0)
                if kid.pid == "restarting":
                    self._decide(kid, retries)

    def _ended(self, kid: Kid, how: str, retries: list[Kid]) -> None:
        orderly = how in ("normal", "shutdown", "shutdown with detail")
        if kid.restart == "permanent" or (kid.restart == "transient" and not orderly):
            self._decide(kid, retries)
            return
        kid.pid = None
        if kid.restart == "temporary":
            self.kids.remove(kid)

    def _decide(self, kid: Kid, retries: list[Kid]) -> None:
        self.decisions += 1
        self.times = [t for t in [*self.times, self.now] if t >= self.now - self.period]
        if len(self.times) > self.intensity:
            kid.pid = None
            self.alive = False
            self._stop(list(self.kids))
            return
        failed = self._restart(kid)
        if failed is not None:
            failed.pid = "restarting"
            retries.append(failed)

    def _restart(self, kid: Kid) -> Kid | None:
        """Restart by the strategy; return the child whose start failed."""
        if self.strategy == "one_for_one":
            return None if self._start(kid) else kid
        place = self.kids.index(kid) if self.strategy == "rest_for_one" else 0
        before, group = self.kids[:place], self.kids[place:]
        kid.pid = None
        self._stop(group)
        group = [member for member in group if member in self.kids]
        for member in group:
            if not self._start(member):
                return member
        assert before + group == self.kids
        return None

    def _stop(self, kids: list[Kid]) -> None:
        for kid in reversed(kids):
            if kid.pid == "up":
                self.lines.append(f"stop {kid.id}")
            kid.pid = None
            if kid.restart == "temporary":
                self.kids.remove(kid)

    def _start(self, kid: Kid) -> bool:
        plans = self.plans.get(kid.id)
        plan = plans.pop(0) if plans else "ok"
        self.lines.append(f"{'start' if plan == 'ok' else plan} {kid.id}")
        kid.pid = "up" if plan == "ok" else None
        return plan != "fail"
