"""The main job's command line: text in, a checked value out. What is wrong is told in one line."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import attrs

from avm.errors import AVMError, SpecError
from avm.io import Latency, Limits
from avm.io.providers.choice import PROVIDERS
from avm.io.providers.scripted import REALISTIC
from avm.memory import format_size, parse_size

AGENTS = 1000
MEMORY = "2GB"
MODEL = "claude-haiku-5-5"
MAX_TOKENS = 256
SYSTEM_FOR_LOCAL = "You are a helpful assistant. Answer in one short sentence."

MOST_AGENTS = 10_000_000
"""More are a slip of the hand: a process of so many has no memory left for their conversations."""

MOST_CRASHES = 10_000.0
"""Crashes a second: more is not chaos but a stopped clock."""


class OptionError(AVMError):
    """The command line cannot be carried out as it is."""


@attrs.frozen(slots=True, kw_only=True)
class JobOptions:
    """What the main job is to do.

    Attributes:
        memory: the ceiling of what the process takes, in bytes.
        home: the directory in which conversations are kept on disk, None for none.
        cold: the cold store of a new home, None for its default.
        duration: seconds, None for no limit.
        conversations: how many to play in all; 0 for each of the workload once, None for no end.
        workload: a file of conversations, None for the one that ships with avm.
        out: where the conversations kept are written.
        chaos: crashes a second.
        provider: who gives the replies; None is what the environment says.
        model, max_tokens: of a live provider.
        system: in place of the recorded system prompts, for a live provider; None is those.
        base_url: where a provider's server is, None for its own.
        limits: what the provider allows.
    """

    agents: int = AGENTS
    memory: int = 2 << 30
    home: Path | None = None
    cold: str | None = None
    duration: float | None = None
    conversations: int | None = None
    workload: Path | None = None
    out: Path | None = None
    latency: Latency = REALISTIC
    chaos: float = 0.0
    provider: str | None = None
    model: str = MODEL
    max_tokens: int = MAX_TOKENS
    system: str | None = None
    base_url: str | None = None
    limits: Limits | None = None
    seed: int | None = None
    json: bool = False


def parse_job(argv: Sequence[str]) -> JobOptions:
    """Read the arguments of `avm`.

    Raises:
        OptionError: one of them cannot be right; says which and what it takes.
        SystemExit: `--help` was answered.
    """
    found = _parser().parse_args(list(argv))
    if found.cold is not None and found.home is None:
        raise OptionError("--cold says what a home is written with; give --home DIR too.")
    if found.once and found.conversations is not None:
        raise OptionError(
            "--once and --conversations cannot both be given: --once plays every conversation once."
        )
    return JobOptions(
        agents=found.agents,
        memory=found.memory,
        home=found.home,
        cold=found.cold,
        duration=found.duration,
        conversations=0 if found.once else found.conversations,
        workload=found.workload,
        out=found.out,
        latency=found.model_latency,
        chaos=found.chaos,
        provider=found.provider,
        model=found.model,
        max_tokens=found.max_tokens,
        system=found.system,
        base_url=found.base_url,
        limits=_limits(found),
        seed=found.seed,
        json=found.json,
    )


def parse_latency(text: str) -> Latency:
    """Read how long model replies take: "0", "120ms", "fixed:50ms", "lognormal:120ms" or "lognormal:120ms:0.5".

    Raises:
        SpecError: it is none of these.
    """
    plain = re.fullmatch(r"(?:fixed:)?([^:~]+)", text)
    if plain is not None:
        return Latency.parse(plain[1])
    spread = re.fullmatch(r"lognormal:([^:~]+)(?::([0-9.]+))?", text)
    if spread is not None:
        return Latency.parse(f"{spread[1]}~{spread[2] or REALISTIC.sigma}")
    return Latency.parse(text)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong by raising it."""

    def error(self, message: str) -> NoReturn:
        text = re.sub(r"^argument (?:-\w, )?(--[\w-]+):", r"\1", message)
        raise OptionError(f"{text.rstrip('.')}. `avm --help` lists what there is.")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="avm",
        allow_abbrev=False,
        usage="avm [--agents N] [--memory SIZE] [options] | avm run MODULE:TREE [options] | avm --version",
        description="Run supervised agents over recorded conversations, which they play one after another through "
        "mailboxes, router, store and I/O pool. `avm run --help` tells how to run a tree of your own.",
    )
    add = parser.add_argument
    add("--agents", type=_agents, default=AGENTS, metavar="N", help="how many agents (default: %(default)s)")
    add(
        "--memory",
        type=_memory,
        default=parse_size(MEMORY),
        metavar="SIZE",
        help=f"ceiling of what the process takes, as 16GB or 512MB (default: {MEMORY})",
    )
    add(
        "--home",
        type=Path,
        metavar="DIR",
        help="keep conversations there on disk, and go on from what a run before has kept there",
    )
    add(
        "--cold",
        choices=("sqlite", "lmdb"),
        metavar="KIND",
        help="what a new home is written with: sqlite (default) or lmdb",
    )
    add("--duration", type=_seconds, metavar="S", help="stop in order after so many seconds")
    add("--conversations", type=_count, metavar="N", help="end when N conversations have been played")
    add(
        "--once", action="store_true", help="end when every conversation of the workload has been played once"
    )
    add(
        "--workload",
        type=Path,
        metavar="FILE",
        help="conversations to play, as zstd JSON lines (default: 40 that ship with avm)",
    )
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="write the conversations the agents kept, in the format of the workload",
    )
    add(
        "--model-latency",
        type=_latency,
        default=REALISTIC,
        metavar="TIME",
        help="how long a model's reply takes: 0, 120ms, fixed:120ms, lognormal:120ms or lognormal:120ms:0.5, which is "
        f"median and sigma (default: lognormal:{REALISTIC.median * 1000:g}ms:{REALISTIC.sigma:g})",
    )
    add("--chaos", type=_rate, default=0.0, metavar="RATE", help="crash so many random agents a second")
    add(
        "--provider",
        choices=PROVIDERS,
        metavar="NAME",
        help="who gives the replies: scripted, as recorded; anthropic, messages, openai or local, which answer live "
        "what the recorded users said (default: AVM_PROVIDER, else anthropic if there is an ANTHROPIC_API_KEY, else "
        "scripted)",
    )
    add(
        "--model", default=MODEL, metavar="NAME", help="which model of a live provider (default: %(default)s)"
    )
    add(
        "--max-tokens",
        type=_tokens,
        default=MAX_TOKENS,
        metavar="N",
        help="tokens of a live reply at most (default: %(default)s)",
    )
    add(
        "--system",
        metavar="TEXT",
        help="system prompt for a live provider (default: those that were recorded; a short one for local, which reads "
        "no more than 90 tokens a second)",
    )
    add("--base-url", metavar="URL", help="where the provider's server is, as http://localhost:8080")
    for name, what in (
        ("requests", "requests"),
        ("input-tokens", "input tokens"),
        ("output-tokens", "output tokens"),
    ):
        add(
            f"--{name}-per-minute",
            type=_tokens,
            metavar="N",
            help=f"{what} the provider allows a minute; its responses correct it",
        )
    add("--seed", type=_seed, metavar="N", help="make latencies and chaos the same in every run")
    add("--json", action="store_true", help="write one JSON object a second, and a last one that is final")
    return parser


def _agents(text: str) -> int:
    number = _whole(text, "a whole number of 1 or more")
    if number > MOST_AGENTS:
        raise argparse.ArgumentTypeError(f"must be at most {MOST_AGENTS:,}, got {text!r}")
    return number


def _seed(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, got {text!r}") from None


def _count(text: str) -> int:
    return _whole(text, "a whole number of 1 or more; leave it out to play without an end")


def _whole(text: str, expected: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r}")
    return number


def _memory(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error).removeprefix("memory size ")) from None


def _seconds(text: str) -> float:
    return _number(text, "a number of seconds above 0", math.inf, above=True)


def _rate(text: str) -> float:
    return _number(text, f"a number of crashes a second, 0 to {MOST_CRASHES:g}", MOST_CRASHES, above=False)


def _number(text: str, expected: str, most: float, *, above: bool) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (0 < number if above else 0 <= number) or not number <= most or math.isinf(number):
        raise argparse.ArgumentTypeError(f"must be {expected}, got {text!r}")
    return number


def _latency(text: str) -> Latency:
    try:
        return parse_latency(text)
    except SpecError:
        raise argparse.ArgumentTypeError(
            f"must read as 0, 120ms, 0.2s, fixed:50ms or lognormal:120ms:0.5 (median:sigma), got {text!r}"
        ) from None


def _tokens(text: str) -> int:
    return _whole(text, "a whole number of 1 or more")


def _limits(found: argparse.Namespace) -> Limits | None:
    limits = Limits(
        requests=found.requests_per_minute,
        input_tokens=found.input_tokens_per_minute,
        output_tokens=found.output_tokens_per_minute,
    )
    return limits if limits != Limits() else None


def describe_latency(latency: Latency) -> str:
    """Say a latency in words."""
    if not latency.median:
        return "without delay"
    median = f"{latency.median * 1000:g} ms"
    return f"around {median} (log-normal, {latency.sigma:g})" if latency.sigma else f"after {median}"


def describe_memory(memory: int, machine: int | None) -> str:
    """Say the ceiling, and the machine's memory where that is less."""
    less = machine is not None and machine < memory
    return f"ceiling {format_size(memory)}" + (
        f" (this machine has {format_size(machine or 0)})" if less else ""
    )
