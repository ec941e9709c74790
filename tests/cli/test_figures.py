"""Figures: what is measured of a running job, and the JSON object made of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

import attrs

from avm.cli.director import Begin
from avm.cli.figures import _NOTHING, Gauge, _PoolCount
from avm.cli.options import JobOptions
from avm.cli.player import DIRECTOR
from avm.cli.tree import AGENTS, job_tree, start_agents
from avm.cli.workload import Workload
from avm.io import Latency, RecordedProvider
from avm.vm import VM
from tests.cli.measured import FIGURES
from tests.cli.recorded import recordings

Run = Callable[[Coroutine[Any, Any, Any]], Any]

KEYS = [
    "agents",
    "active",
    "waiting",
    "rss_bytes",
    "store_bytes",
    "dedup_held",
    "dedup_sent",
    "compression",
    "hot_bytes",
    "warm_bytes",
    "cold_bytes",
    "asleep",
    "disk_bytes",
    "spills",
    "wakes",
    "wake_p50_ms",
    "commit_p99_ms",
    "read_back",
    "requests",
    "requests_per_s",
    "latency_p50_ms",
    "latency_p99_ms",
    "restarts",
    "dead_letters",
    "conversations_done",
    "turns_done",
    "provider",
    "io",
]


def test_the_json_object_has_exactly_its_keys() -> None:
    assert list(FIGURES.as_json()) == KEYS
    assert json.loads(json.dumps(FIGURES.as_json())) == FIGURES.as_json()


def test_the_last_json_object_says_that_it_is_final() -> None:
    last = attrs.evolve(FIGURES, final=True).as_json()

    assert list(last) == [*KEYS, "final"]
    assert last["final"] is True


def test_a_finished_job_is_measured_to_the_last_request(run: Run) -> None:
    async def body() -> None:
        workload = Workload("w", recordings(3, turns=2))
        options = JobOptions(agents=4, conversations=0, latency=Latency())
        provider = RecordedProvider(workload.recordings)
        async with VM(job_tree(options, workload, None), provider=provider) as vm:
            await start_agents(vm[AGENTS], options, workload)
            gauge = Gauge(vm)
            before = gauge.read()
            await vm.ask(DIRECTOR, Begin())
            await vm.kernel.idle()
            after = gauge.read()
            last = gauge.read_final()

        assert (before.agents, before.active, before.waiting) == (4, 0, {"Idle": 4})
        assert (before.requests, before.turns_done) == (0, 0)
        assert (after.conversations_done, after.turns_done, after.requests) == (3, 6, 12)
        assert after.tool_calls == 6
        assert (after.provider, after.restarts, after.dead_letters) == ("scripted", 0, 0)
        assert after.requests_per_s > 0
        assert after.latency_p99_ms >= after.latency_p50_ms > 0
        assert after.store_bytes > 0
        assert after.held_bytes > 0
        assert after.rss_bytes > 1_000_000
        assert last.final
        assert last.requests == 12

    run(body())


def test_agents_that_wait_are_counted_by_what_for(run: Run) -> None:
    async def body() -> None:
        workload = Workload("w", recordings(1))
        options = JobOptions(agents=2, conversations=0)
        never = asyncio.Event()

        async def sleep(seconds: float) -> None:
            await never.wait()

        provider = RecordedProvider(workload.recordings, latency=Latency(1.0), sleep=sleep)
        async with VM(job_tree(options, workload, None), provider=provider) as vm:
            await start_agents(vm[AGENTS], options, workload)
            gauge = Gauge(vm)
            playing = asyncio.create_task(vm.ask(DIRECTOR, Begin(), timeout=None))
            await asyncio.sleep(0)
            await vm.kernel.idle()
            figures = gauge.read()
            never.set()
            await playing

        assert (figures.agents, figures.active) == (2, 0)
        assert figures.waiting == {"LlmReply": 1, "Idle": 1}
        assert figures.in_flight == 1

    run(body())


def test_the_pools_counts_go_on_when_its_front_was_restarted() -> None:
    count = _PoolCount()

    def seen(requests: int | None) -> int:
        found = None if requests is None else attrs.evolve(_NOTHING, requests=requests, tool_calls=requests)
        read = count.read(found)
        assert read.requests == read.tool_calls
        return read.requests

    assert [seen(n) for n in (5, None, 2, 3, None, 4)] == [5, 5, 7, 8, 8, 9]
