"""Times: what it costs to work with conversations, and what compressing them costs the event loop."""

from __future__ import annotations

import copy
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from time import perf_counter
from typing import Any

import attrs
import msgspec
from bench import KB, Bench
from blake3 import blake3
from figures import Found, judged, percentile
from fleets import grow
from histories import compact, is_middling
from measure import figure, once
from ticker import delays

from avm.memory import Conversation, Store


def versions(n: int, runs: int, bench: Bench) -> Iterator[Found]:
    """Fork and append at n messages."""
    messages = bench.histories.long(n)
    more = bench.histories.long(2 * n)[n:]
    base = Conversation(Store(), "a prompt").extend(messages)
    fork = [_microseconds(base.fork, 200) for _ in range(runs)]
    beside = {
        "list.copy": statistics.median(_microseconds(messages.copy, 200) for _ in range(runs)),
        "deepcopy": statistics.median(
            _microseconds(lambda: copy.deepcopy(messages), 3, 1) for _ in range(runs)
        ),
    }
    yield judged(f"fork at {n:,} messages", n, fork, "us", most=2, peers=beside, floor="list.copy")
    ours, plain, rooted = [], [], []
    for _ in range(runs):
        plain.append(statistics.median(_appends_to_list(messages.copy(), more, rooted=False)))
        rooted.append(statistics.median(_appends_to_list(messages.copy(), more, rooted=True)))
        ours.append(statistics.median(_appends(base.fork(), more)))
    beside = {
        "list.append": statistics.median(plain),
        "list.append + json + blake3": statistics.median(rooted),
    }
    yield judged(
        f"append with root at {n:,} messages", n, ours, "us", most=10, peers=beside, floor="list.append"
    )


def render(n: int, runs: int, bench: Bench) -> Iterator[Found]:
    """Conversations of 36 to 44 messages as the JSON of a request, hot and warm."""
    store = Store()
    mix = bench.histories.mix(n)
    everyone = grow(store, (history.copy() for history in mix))
    chosen = [number for number, history in enumerate(mix) if is_middling(history.messages)] or list(
        range(len(mix))
    )
    kept = [everyone[number] for number in chosen]
    plain = [mix[number].messages for number in chosen]
    for each, messages in zip(kept, plain, strict=True):
        assert json.loads(each.render()) == messages
    encode = msgspec.json.Encoder().encode
    sides: dict[str, Callable[[int], Any]] = {
        "json.dumps": lambda n: json.dumps(plain[n]),
        "msgspec": lambda n: encode(plain[n]),
        "hot": lambda n: kept[n].render(),
    }
    found: dict[str, list[float]] = {name: [] for name in (*sides, "warm")}
    for _ in range(runs):
        for name, side in sides.items():
            found[name].append(_p50(side, range(len(kept)), 20))
        found["warm"].append(_p50(sides["hot"], range(len(kept)), 5, before=lambda n: kept[n].cool()))
    beside = {name: statistics.median(found[name]) for name in ("json.dumps", "msgspec")}
    size = statistics.median(len(each.render()) for each in kept) / KB
    for name, most in (("hot", 20), ("warm", 100)):
        yield judged(
            f"render 36-44 messages, {name}, p50",
            len(kept),
            found[name],
            "us",
            most=most,
            peers=beside,
            floor="msgspec",
            note=f"{size:.1f} KB p50",
        )


def loop(n: int, runs: int, bench: Bench) -> Iterator[Found]:
    """How late a 1 ms ticker is while a thread compresses for n agents that grow."""
    histories = bench.histories.mix(n)
    seconds = 0.2 if bench.quick else 5.0
    found: dict[bool, list[list[float]]] = {False: [], True: []}
    compressed: list[int] = []

    async def one(compresses: bool) -> float:
        late, done = await delays(histories, seconds, compresses=compresses)
        ordered = [percentile(late, part) * 1e3 for part in (0.99, 0.5, 1.0)]
        found[compresses].append(ordered)
        compressed.append(done)
        return ordered[0]

    for _ in range(runs):
        once(lambda _: one(False), n)
        once(lambda _: one(True), n)
    p50, most = (statistics.median(run[at] for run in found[True]) for at in (1, 2))
    delay = judged(
        "event loop delay while compressing, p99",
        n,
        [run[0] for run in found[True]],
        "ms",
        most=5,
        peers={"without compressing": statistics.median(run[0] for run in found[False])},
        floor="without compressing",
        note=f"p50 {figure(p50)}, max {figure(most)} ms; {max(compressed):,} objects compressed",
    )
    # Where nothing was compressed, nothing was shown.
    yield attrs.evolve(delay, met=bool(delay.met) and max(compressed) > 0)


# What the rows need.


def _microseconds(what: Callable[[], Any], batches: int, batch: int = 20) -> float:
    """Return the median of many batches, for one call; what is returned is thrown away within the time."""
    took = []
    for _ in range(batches):
        began = perf_counter()
        for _ in range(batch):
            what()
        took.append((perf_counter() - began) / batch)
    return statistics.median(took) * 1e6


def _p50(
    what: Callable[[int], Any],
    numbers: Sequence[int],
    times: int,
    before: Callable[[int], None] | None = None,
) -> float:
    """Return the median over all numbers, in microseconds, each call for itself."""
    took = []
    for _ in range(times):
        for number in numbers:
            if before is not None:
                before(number)
            began = perf_counter()
            what(number)
            took.append(perf_counter() - began)
    return statistics.median(took) * 1e6


def _appends(grown: Conversation, messages: Sequence[Any]) -> list[float]:
    took = []
    for message in messages:
        began = perf_counter()
        grown = grown.append(message)
        _root = grown.root
        took.append((perf_counter() - began) * 1e6)
    return took


def _appends_to_list(grown: list[Any], messages: Sequence[Any], *, rooted: bool) -> list[float]:
    took = []
    root = bytes(32)
    for message in messages:
        began = perf_counter()
        grown.append(message)
        if rooted:
            root = blake3(root + blake3(compact(message)).digest()).digest()
        took.append((perf_counter() - began) * 1e6)
    return took
