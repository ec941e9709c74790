"""The main job: `avm --agents N --memory SIZE`. Many agents play recorded conversations; what they do is measured.

It ends when all conversations have been played (`--once`, `--conversations N`), when `--duration` is over, or by a
signal. The last figures come out in any case, and one line on standard error says why it ended, as the exit status
does:

    0    all conversations were played, or the time without such a goal is over
    1    something failed; a conversation was not kept as recorded; the time was over before all were played
    2    the command line, the workload or the place of --out is wrong
    130  SIGINT; 143 SIGTERM
"""

from __future__ import annotations

import asyncio
import math
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.util import find_spec

import attrs

import avm
from avm.cli.director import Begin, DirectorStatistics
from avm.cli.figures import Gauge
from avm.cli.incidents import Incidents, logged_to
from avm.cli.lines import Display, choose_display
from avm.cli.options import (
    SYSTEM_FOR_LOCAL,
    JobOptions,
    OptionError,
    describe_latency,
    describe_memory,
    parse_job,
)
from avm.cli.player import DIRECTOR
from avm.cli.tree import AGENTS, job_tree, start_agents
from avm.cli.workload import KeptFile, Workload, read_workload
from avm.errors import ColdStoreError, HomeError, StartError, VMError, WorkloadError
from avm.io import CONCURRENCY, Provider, RecordedProvider, Recordings, choose_provider
from avm.memory import memory_limit
from avm.vm import VM, run

NEEDED = {"messages": "aiohttp", "openai": "aiohttp", "anthropic": "anthropic"}
"""What live providers import when they are first used; each is in the extra of the provider's name."""

MOST_CALLS = 10_000
"""Model calls a second that one process will not reach."""


def job_command(argv: Sequence[str]) -> int:
    """Carry out the main job with these arguments; return the exit status."""
    try:
        options = parse_job(argv)
    except OptionError as error:
        return _say(str(error), 2)
    display = choose_display(options.json, sys.stdout, os.environ.get("TERM", ""))
    try:
        workload = read_workload(options.workload)
        out = KeptFile(options.out) if options.out is not None else None
    except WorkloadError as error:
        return _say(str(error), 2)
    try:
        with logged_to(display.note), out if out is not None else nullcontext():
            status, why = run(play, options, workload, out, display)
    except (HomeError, ColdStoreError) as error:
        return _say(f"--home: {error}", 2)
    except (StartError, VMError, WorkloadError) as error:
        return _say("\n  ".join([str(error), *getattr(error, "__notes__", [])]), 1)
    except SystemExit as end:
        if out is not None:
            _say(f"{out.written:,} conversations written to {out.path}.", 0)
        return end.code if isinstance(end.code, int) else 1
    finally:
        display.restore()
    return _say(why + (f" {out.written:,} written to {out.path}." if out is not None else ""), status)


async def play(
    options: JobOptions, workload: Workload, out: KeptFile | None, display: Display
) -> tuple[int, str]:
    """Run the job to its end; return the exit status and why it ended."""
    display.title(f"avm {avm.__version__}, the Agent Virtual Machine")
    recordings = workload.recordings
    display.started(
        "workload", f"{workload.name}: {len(recordings):,} conversations, {workload.messages:,} messages"
    )
    provider = choose(options, recordings)
    if provider.name == "local" and options.system is None:
        options = attrs.evolve(options, system=SYSTEM_FOR_LOCAL)
    is_live = not isinstance(provider, RecordedProvider)
    vm = VM(
        job_tree(options, workload, out, is_live),
        memory=options.memory,
        home=options.home,
        cold=options.cold,
        provider=provider,
        seed=options.seed,
        observers=[Incidents(options.chaos > 0)],
    )
    async with vm:
        return await Performance(vm, options, workload, display, provider).run()


class Performance:
    """One run of the job in its VM, measured from its start to its end."""

    def __init__(
        self, vm: VM, options: JobOptions, workload: Workload, display: Display, provider: Provider
    ) -> None:
        self._provider = provider
        self._is_live = not isinstance(provider, RecordedProvider)
        self._vm = vm
        self._options = options
        self._workload = workload
        self._display = display
        self._gauge = Gauge(vm)

    async def run(self) -> tuple[int, str]:
        """Start the agents, let them play, and show what is measured; the last figures come out in any case."""
        playing: asyncio.Task[None] | None = None
        try:
            await self._start()
            playing = asyncio.create_task(self._play())
            await self._watch(playing)
        finally:
            if playing is not None:
                playing.cancel()
                await asyncio.wait([playing])
            self._display.finish(self._gauge.read_final())
        return conclude(self._options, self._gauge.progress(), not playing.cancelled(), self._is_live)

    async def _start(self) -> None:
        options, display = self._options, self._display
        kept = f", home {options.home}" if options.home is not None else ""
        display.started("store", f"blake3 and zstd, {describe_memory(options.memory, memory_limit())}{kept}")
        display.started("I/O pool", describe_provider(options, self._provider))
        chaos = f", {options.chaos:g} crashes a second" if options.chaos else ""
        display.started("supervisors", f"job: director, agents one_for_one{chaos}")
        began = self._vm.kernel.now()
        await start_agents(self._vm[AGENTS], options, self._workload, self._is_live)
        took = self._vm.kernel.now() - began
        display.started("agents", f"{options.agents:,} started in {took:.2f} s")
        self._gauge.begin()

    async def _play(self) -> None:
        await self._vm.ask(DIRECTOR, Begin(), timeout=None)

    async def _watch(self, playing: asyncio.Task[None]) -> None:
        now, interval = self._vm.kernel.now, self._display.interval
        tick = began = now()
        end = began + self._options.duration if self._options.duration is not None else float("inf")
        while True:
            tick = max(tick + interval, now())
            await asyncio.wait([playing], timeout=max(0.0, min(tick, end) - now()))
            if playing.done() or now() >= end:
                break
            self._display.show(self._gauge.read())
        if playing.done() and playing.exception() is not None:
            # The director is gone, so the job is over; leaving the VM says why.
            await self._vm.wait_stopped()


def choose(options: JobOptions, recordings: Recordings) -> Provider:
    """Return who gives the replies: the recordings, unless a live provider is asked for or the environment has one."""
    found = choose_provider(options.provider, base_url=options.base_url, limits=options.limits)
    if found.name != "scripted":
        # Said once, before a thousand agents crash over it.
        needed = NEEDED.get(found.name)
        if needed is not None and find_spec(needed) is None:
            raise VMError(f"provider {found.name} needs {needed}: pip install 'avm-runtime[{found.name}]'.")
        return found
    recorded = RecordedProvider(recordings, latency=options.latency, seed=options.seed or 0)
    recorded.concurrency = enough_calls(options)
    return recorded


def describe_provider(options: JobOptions, provider: Provider) -> str:
    """Say who gives the replies."""
    if isinstance(provider, RecordedProvider):
        return f"provider {provider.name}, replies as recorded, {describe_latency(options.latency)}"
    where = f" at {options.base_url}" if options.base_url is not None else ""
    return f"provider {provider.name}{where}, live replies of {options.model}, {options.max_tokens} tokens at most"


def enough_calls(options: JobOptions) -> int:
    """Return how many model calls may be under way at once, so that none waits for another's.

    An agent has one at most; and no more are ever under way than come in while one takes its time. Each costs some KB.
    """
    latency = options.latency
    mean = latency.median * math.exp(latency.sigma**2 / 2)
    return max(CONCURRENCY, min(options.agents, int(MOST_CALLS * mean) + CONCURRENCY))


def conclude(
    options: JobOptions, progress: DirectorStatistics, is_over: bool, is_live: bool = False
) -> tuple[int, str]:
    """Return the exit status, and why the job ended: all was played (`is_over`), or its time was up."""
    played = f"{progress.conversations:,} conversation{'s' if progress.conversations != 1 else ''} played"
    if progress.failure:
        return 1, progress.failure
    if progress.different:
        return 1, (
            f"{played}, and {progress.different:,} of them kept otherwise than recorded, the first of them "
            f"{progress.first_different!r}."
        )
    if is_over:
        return 0, f"{played}{'' if is_live else ', each kept as recorded'}."
    exact = ", each kept as recorded" if progress.conversations and not is_live else ""
    ended = f"stopped after {options.duration:g} s (--duration)"
    if options.conversations is not None:
        return 1, f"{ended} with only {played}; give it more time, or leave --duration out."
    return 0, f"{ended}; {played}{exact}."


def _say(line: str, status: int) -> int:
    print(f"avm: {line}", file=sys.stderr, flush=True)
    return status
