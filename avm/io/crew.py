"""Crew: the workers of one gate: who is idle, and who is at which attempt."""

from __future__ import annotations

from avm.actors.ref import Pid
from avm.io.call import Attempt


class Crew:
    """Workers by pid. The gate hires and kills them."""

    def __init__(self) -> None:
        self.crashed = 0
        self._hired: set[Pid] = set()
        self._idle: list[Pid] = []
        self._busy: dict[Pid, Attempt] = {}

    def add(self, worker: Pid) -> None:
        """Take note of a new one."""
        self._hired.add(worker)

    def rest(self, worker: Pid) -> None:
        """One has nothing to do."""
        if worker in self._hired and worker.is_alive():
            self._idle.append(worker)

    def take_idle(self) -> Pid | None:
        """Take the one that was idle last, None if there is none; those that ended are passed over."""
        while self._idle:
            worker = self._idle.pop()
            if worker.is_alive():
                return worker
        return None

    def begin(self, worker: Pid, attempt: Attempt) -> None:
        """One is at an attempt."""
        self._busy[worker] = attempt
        attempt.call.workers.append(worker)

    def attempt_of(self, worker: Pid | None) -> Attempt | None:
        """Return what one is at."""
        return self._busy.get(worker) if worker is not None else None

    def end(self, worker: Pid | None) -> Attempt | None:
        """One is done with its attempt; return it, None if it was at none that matters."""
        attempt = self._busy.pop(worker, None) if worker is not None else None
        if attempt is not None and worker is not None:
            attempt.call.workers.remove(worker)
        return attempt

    def dismiss(self, worker: Pid) -> Attempt | None:
        """One will be killed; return what it was at. Its end is no crash."""
        self._hired.discard(worker)
        return self.end(worker)

    def lost(self, worker: Pid | None) -> bool:
        """One has ended by itself; tell whether it was one of ours."""
        if worker not in self._hired:
            return False
        self._hired.discard(worker)
        self.crashed += 1
        return True

    @property
    def at_work(self) -> int:
        """How many are at an attempt."""
        return len(self._busy)

    def __len__(self) -> int:
        return len(self._hired)
