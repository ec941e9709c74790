"""The main job's command line: what is read, and what is said of what cannot be right."""

from __future__ import annotations

from pathlib import Path

import pytest

from avm.cli.options import (
    JobOptions,
    OptionError,
    describe_latency,
    describe_memory,
    parse_job,
    parse_latency,
)
from avm.io import Latency

GB = 1 << 30


def test_without_arguments_the_job_has_its_defaults() -> None:
    options = parse_job([])

    assert options == JobOptions(agents=1000, memory=2 * GB)
    assert (options.latency.median, options.conversations, options.provider) == (0.12, None, None)
    assert options.latency.sigma > 0


def test_every_option_is_read() -> None:
    options = parse_job(
        "--agents 7 --memory 16GB --duration 2.5 --conversations 9 --workload w.zst --out o.zst --model-latency 5ms "
        "--chaos 0.5 --provider scripted --seed 3 --json".split()
    )

    assert options == JobOptions(
        agents=7,
        memory=16 * GB,
        duration=2.5,
        conversations=9,
        workload=Path("w.zst"),
        out=Path("o.zst"),
        latency=Latency(0.005),
        chaos=0.5,
        provider="scripted",
        seed=3,
        json=True,
    )


def test_once_is_every_conversation_of_whatever_workload() -> None:
    assert parse_job(["--once"]).conversations == 0


@pytest.mark.parametrize(
    "argv, says",
    [
        ("--agents 0", "--agents must be a whole number of 1 or more, got '0'"),
        ("--agents -5", "--agents must be a whole number of 1 or more, got '-5'"),
        ("--agents many", "--agents must be a whole number of 1 or more, got 'many'"),
        ("--agents", "--agents expected one argument"),
        ("--memory lots", "--memory 'lots' is not a size; write a number and a unit"),
        ("--memory -1GB", "--memory"),
        ("--memory 1MB", "--memory '1MB' is below the floor of 64 MB"),
        ("--memory 0", "--memory '0' is below the floor of 64 MB"),
        ("--duration 0", "--duration must be a number of seconds above 0, got '0'"),
        ("--duration nan", "--duration must be a number of seconds above 0, got 'nan'"),
        ("--duration inf", "--duration must be a number of seconds above 0, got 'inf'"),
        ("--conversations 0", "--conversations must be a whole number of 1 or more"),
        ("--chaos -1", "--chaos must be a number of crashes a second, 0 to 10000, got '-1'"),
        ("--chaos inf", "--chaos must be a number of crashes a second"),
        (
            "--model-latency soon",
            "--model-latency must read as 0, 120ms, 0.2s, fixed:50ms or lognormal:120ms:0.5",
        ),
        ("--model-latency lognormal:1s:9", "--model-latency must read as"),
        ("--provider oracle", "--provider invalid choice: 'oracle' (choose from 'anthropic', 'messages'"),
        ("--agents 99999999999999999999", "--agents must be at most 10,000,000, got '99999999999999999999'"),
        ("--seed x", "--seed must be a whole number, got 'x'"),
        ("--bogus", "unrecognized arguments: --bogus"),
        ("--agent 5", "unrecognized arguments: --agent 5"),
        ("--once --conversations 5", "--once and --conversations cannot both be given"),
    ],
)
def test_what_cannot_be_right_is_told_in_one_line(argv: str, says: str) -> None:
    with pytest.raises(OptionError) as caught:
        parse_job(argv.split())

    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text, latency",
    [
        ("0", Latency(0.0)),
        ("120ms", Latency(0.12)),
        ("0.2s", Latency(0.2)),
        ("fixed:50ms", Latency(0.05)),
        ("lognormal:120ms:0.5", Latency(0.12, 0.5)),
        ("lognormal:120ms", Latency(0.12, 0.35)),
        ("120ms~0.4", Latency(0.12, 0.4)),
    ],
)
def test_a_latency_is_a_time_or_a_distribution(text: str, latency: Latency) -> None:
    assert parse_latency(text) == latency


def test_latencies_and_ceilings_are_put_in_words() -> None:
    assert describe_latency(Latency()) == "without delay"
    assert describe_latency(Latency(0.05)) == "after 50 ms"
    assert describe_latency(Latency(0.12, 0.5)) == "around 120 ms (log-normal, 0.5)"
    assert describe_memory(16 * GB, 64 * GB) == "ceiling 16 GB"
    assert describe_memory(16 * GB, 8 * GB) == "ceiling 16 GB (this machine has 8 GB)"
    assert describe_memory(16 * GB, None) == "ceiling 16 GB"


def test_help_lists_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_job(["--help"])

    text = capsys.readouterr().out
    assert caught.value.code == 0
    for option in (
        "--agents",
        "--memory",
        "--duration",
        "--json",
        "--workload",
        "--model-latency",
        "--conversations",
    ):
        assert option in text
    for option in ("--once", "--out", "--chaos", "--provider", "--seed", "avm run"):
        assert option in text
