"""Figures: what the main job measures of its VM, once a second, as a frozen value. Screen, lines and JSON render it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, cast

import attrs

from avm.cli.director import Director, DirectorStatistics
from avm.cli.gates import IoFigures, read_io
from avm.cli.live import LivePlayer
from avm.cli.player import DIRECTOR, Player
from avm.io.pool import NAME as POOL
from avm.io.pool import IoFront
from avm.io.request import PoolStatistics
from avm.memory import rss_bytes
from avm.vm import VM

IDLE = "Idle"
"""What agents wait for that are in no handler: an event. All other reasons have the names of their classes."""


@attrs.frozen(slots=True, kw_only=True)
class Figures:
    """One measurement.

    Attributes:
        seconds: since the job began.
        active: agents in a handler that waits for nothing, or about to be; the others are in `waiting`, by reason.
        store_bytes: what the store takes, bookkeeping included; held_bytes: what it would be without sharing.
        hot_bytes, warm_bytes, cold_bytes: content by tier: as it is, compressed in RAM, and on disk only (as it would
            be if read). asleep: conversations of which RAM holds a stub.
        disk_bytes: files of the home or the scratch folder. spills, wakes: what went to disk and came back.
        commit_p99_ms: from a commit to its being on disk.
        read_back: conversations that a run before had played to their end on this home.
        requests: model calls answered since the job began; tool_calls likewise.
        requests_per_s: since the last measurement; in the final one, over the whole job.
        latency_p50_ms, latency_p99_ms: of the last thousand model calls, from asking to reply.
        mailbox: events that wait in all mailboxes; deepest: in the fullest.
        io: the model gates, tokens and cost.
        cores: processor time over time, as `requests_per_s`.
    """

    seconds: float
    agents: int
    active: int
    waiting: Mapping[str, int]
    rss_bytes: int
    store_bytes: int
    held_bytes: int
    hot_bytes: int
    warm_bytes: int
    cold_bytes: int
    asleep: int
    disk_bytes: int
    spills: int
    wakes: int
    wake_p50_ms: float
    commit_p99_ms: float
    read_back: int
    dedup_held: float
    dedup_sent: float
    compression: float
    requests: int
    requests_per_s: float
    tool_calls: int
    in_flight: int
    queued: int
    latency_p50_ms: float
    latency_p99_ms: float
    restarts: int
    dead_letters: int
    mailbox: int
    deepest: int
    conversations_done: int
    turns_done: int
    resumed: int
    provider: str
    cores: float
    io: IoFigures = attrs.field(factory=IoFigures)
    final: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the object of `--json`."""
        line: dict[str, Any] = {
            "agents": self.agents,
            "active": self.active,
            "waiting": dict(self.waiting),
            "rss_bytes": self.rss_bytes,
            "store_bytes": self.store_bytes,
            "dedup_held": round(self.dedup_held, 4),
            "dedup_sent": round(self.dedup_sent, 4),
            "compression": round(self.compression, 3),
            "hot_bytes": self.hot_bytes,
            "warm_bytes": self.warm_bytes,
            "cold_bytes": self.cold_bytes,
            "asleep": self.asleep,
            "disk_bytes": self.disk_bytes,
            "spills": self.spills,
            "wakes": self.wakes,
            "wake_p50_ms": round(self.wake_p50_ms, 3),
            "commit_p99_ms": round(self.commit_p99_ms, 3),
            "read_back": self.read_back,
            "requests": self.requests,
            "requests_per_s": round(self.requests_per_s, 1),
            "latency_p50_ms": round(self.latency_p50_ms, 2),
            "latency_p99_ms": round(self.latency_p99_ms, 2),
            "restarts": self.restarts,
            "dead_letters": self.dead_letters,
            "conversations_done": self.conversations_done,
            "turns_done": self.turns_done,
            "provider": self.provider,
            "io": self.io.as_json(),
        }
        return {**line, "final": True} if self.final else line


class Gauge:
    """Measures a job, from when it is made. It looks at the parts and asks none: it works under load and at the end."""

    def __init__(self, vm: VM) -> None:
        self._vm = vm
        self._pool = _PoolCount()
        self._requests = 0
        self._progress = DirectorStatistics(0, 0, 0, 0, 0, "", 0, "")
        self.begin()

    def begin(self) -> None:
        """Count time from now on."""
        self._began = self._at = self._vm.kernel.now()
        self._processor = self._processor_began = time.process_time()

    def read(self) -> Figures:
        """Measure."""
        now, processor = self._vm.kernel.now(), time.process_time()
        pool = self._pool.read(self._front())
        figures = self._measure(now, pool, self._at, self._requests, self._processor)
        self._at, self._requests, self._processor = now, pool.requests, processor
        return figures

    def read_final(self) -> Figures:
        """Measure for the last time; rates are those of the whole job."""
        now = self._vm.kernel.now()
        pool = self._pool.read(self._front())
        return attrs.evolve(self._measure(now, pool, self._began, 0, self._processor_began), final=True)

    def progress(self) -> DirectorStatistics:
        """Read the director's counts; the last known ones when it is gone."""
        director = self._vm.kernel.names.whereis(DIRECTOR)
        if director is not None and director.actor is not None:
            self._progress = cast(Director, director.actor).statistics()
        return self._progress

    def _measure(
        self, now: float, pool: PoolStatistics, since: float, requests: int, processor: float
    ) -> Figures:
        store = self._vm.store
        assert store is not None
        kept, kernel, progress = store.statistics(), self._vm.kernel.statistics(), self.progress()
        agents, active, waiting, mailbox, deepest = self._count_actors()
        span = max(now - since, 1e-9)
        return Figures(
            seconds=now - self._began,
            agents=agents,
            active=active,
            waiting=waiting,
            rss_bytes=rss_bytes(),
            store_bytes=kept.account_bytes,
            held_bytes=kept.held_bytes,
            hot_bytes=kept.tier_bytes["hot"],
            warm_bytes=kept.tier_bytes["warm"],
            cold_bytes=kept.tier_bytes["cold"],
            asleep=kept.asleep,
            disk_bytes=kept.cold.disk_bytes if kept.cold is not None else 0,
            spills=kept.spills,
            wakes=kept.wakes,
            wake_p50_ms=kept.wake_p50 * 1000,
            commit_p99_ms=kept.cold.commit_p99 * 1000 if kept.cold is not None else 0.0,
            read_back=progress.read_back,
            dedup_held=kept.dedup_held,
            dedup_sent=kept.dedup_sent,
            compression=kept.compression,
            requests=pool.requests,
            requests_per_s=(pool.requests - requests) / span,
            tool_calls=pool.tool_calls,
            in_flight=pool.in_flight,
            queued=pool.queued,
            latency_p50_ms=pool.latency_p50 * 1000,
            latency_p99_ms=pool.latency_p99 * 1000,
            restarts=kernel.restarts,
            dead_letters=sum(kernel.dead_letters.values()),
            mailbox=mailbox,
            deepest=deepest,
            conversations_done=progress.conversations,
            turns_done=progress.turns,
            resumed=progress.resumed,
            provider=pool.provider,
            cores=(time.process_time() - processor) / span,
            io=read_io(pool, now),
        )

    def _count_actors(self) -> tuple[int, int, dict[str, int], int, int]:
        kernel = self._vm.kernel
        agents = active = mailbox = deepest = 0
        waiting: Counter[str] = Counter()
        for cell in kernel.cells():
            length = cell.length()
            mailbox += length
            deepest = max(deepest, length)
            if cell.behaviour.cls not in (Player, LivePlayer):
                continue
            agents += 1
            wait = kernel.wait_of(cell)
            if wait is not None:
                waiting[type(wait[0]).__name__] += 1
            elif kernel.state_of(cell) == "idle":
                waiting[IDLE] += 1
            else:
                active += 1
        return agents, active, dict(waiting), mailbox, deepest

    def _front(self) -> PoolStatistics | None:
        front = self._vm.kernel.names.whereis(POOL)
        if front is None or front.actor is None:
            return None
        return cast(IoFront, front.actor).statistics()


class _PoolCount:
    """The pool's counts over all incarnations of its front, which begins anew when it is restarted."""

    def __init__(self) -> None:
        self._last: PoolStatistics | None = None
        self._before = (0, 0)

    def read(self, found: PoolStatistics | None) -> PoolStatistics:
        last = self._last
        if found is None:
            found = last if last is not None else _NOTHING
        elif last is not None and found.requests < last.requests:
            self._before = (self._before[0] + last.requests, self._before[1] + last.tool_calls)
        self._last = found
        requests, tool_calls = self._before
        return attrs.evolve(
            found, requests=found.requests + requests, tool_calls=found.tool_calls + tool_calls
        )


_NOTHING = PoolStatistics(
    provider="",
    requests=0,
    failed=0,
    in_flight=0,
    queued=0,
    latency_p50=0.0,
    latency_p99=0.0,
    workers=0,
    tool_calls=0,
    tool_failures=0,
    tools_in_flight=0,
    tools_queued=0,
    tool_workers=0,
    crashed_workers=0,
    input_tokens=0,
    output_tokens=0,
)
