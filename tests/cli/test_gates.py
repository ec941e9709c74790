"""What is shown of the gates."""

from __future__ import annotations

from random import Random

import attrs

from avm.cli.gates import IoFigures, governor_text, io_rows, read_io
from avm.errors import RateLimited
from avm.io import GateStatistics, Limits, PoolStatistics
from avm.io.governor import Cost, Governor
from avm.io.prefix import PrefixStatistics

POOL = PoolStatistics(
    provider="messages",
    requests=10,
    failed=0,
    in_flight=3,
    queued=7,
    latency_p50=0.1,
    latency_p99=0.2,
    workers=3,
    tool_calls=0,
    tool_failures=0,
    tools_in_flight=0,
    tools_queued=0,
    tool_workers=0,
    crashed_workers=0,
    input_tokens=1000,
    output_tokens=300,
    cache_read_tokens=9000,
    cost=0.25,
)


def gate(governor: Governor, now: float) -> GateStatistics:
    return GateStatistics(
        family="claude-haiku-5",
        credential="messages:12345678",
        queued=5,
        parked=2,
        delayed=0,
        in_flight=3,
        workers=3,
        crashed_workers=0,
        retries=1,
        hedged=0,
        latency_p50=0.1,
        latency_p99=0.2,
        depth={"user": 0, "normal": 5, "background": 0},
        governor=governor.statistics(now),
        prefixes=PrefixStatistics(
            known=1,
            warming=1,
            warm=0,
            hits=9,
            leaders=1,
            followed=2,
            read_tokens=9000,
            written_tokens=0,
            fresh_tokens=1000,
            shares={"Reviewer": 0.9},
        ),
    )


def test_the_screen_shows_limits_pause_prompt_cache_and_cost() -> None:
    governor = Governor(Limits(requests=1000, input_tokens=500_000), 512, Random(1), 0.0)
    reservation = governor.admit(Cost(10_000, 300), 0.0)
    assert not isinstance(reservation, float)
    governor.failed(reservation, RateLimited("no", retry_after=4.0), None, 1.0)
    pool = attrs.evolve(POOL, gates=(gate(governor, 2.0),))

    rows = dict(io_rows(read_io(pool, 2.0)))

    assert rows["governor"] == (
        "3 of 512 in flight, 5 queued, 2 behind a leader, PAUSED for 3.0 s; 1 429, 1 retries"
    )
    assert rows["limits/min"].endswith(" of 1,000, input 500.0k of 500.0k")
    assert rows["prompt cache"] == "90.0% of input read (Reviewer 90%)"
    assert rows["tokens"] == "1,000 in, 300 out; 9,000 read and 0 written in the cache; 0.25 USD"


def test_a_gate_without_limits_or_trouble_says_nothing() -> None:
    governor = Governor(Limits(), 512, Random(1), 0.0)
    quiet = attrs.evolve(gate(governor, 0.0), parked=0, retries=0, prefixes=None)

    assert io_rows(read_io(attrs.evolve(POOL, gates=(quiet,), output_tokens=0), 0.0)) == []


def test_an_open_breaker_is_said() -> None:
    figures = read_io(attrs.evolve(POOL, gates=(gate(Governor(Limits(), 8, Random(1), 0.0), 0.0),)), 0.0)
    broken = attrs.evolve(figures.gates[0], breaker="open")

    assert "breaker open" in governor_text(broken)
    assert IoFigures().as_json()["gates"] == []
