"""The benchmark runs and says what it should; how fast it is, it says itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "actors.py"

pytestmark = pytest.mark.slow


def benchmark(*arguments: str) -> list[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.splitlines()


def measured(*names: str) -> dict[str, Any]:
    only = [argument for name in names for argument in ("--only", name)]
    lines = [json.loads(line) for line in benchmark("--quick", *only)]
    return {line["measure"]: line for line in lines}


def test_each_row_is_a_line_of_json_with_a_value_and_its_floor() -> None:
    lines = measured("ping-pong", "ask", "crash")

    assert len(lines) == 11
    for line in lines.values():
        assert {"measure", "n", "value", "unit"} <= line.keys()
        assert line["value"] > 0
    assert lines["ping-pong, async handlers"]["bar"] == ">= 4x the floor"
    assert lines["ping-pong, async handlers"]["floor"] in (
        lines["ping-pong, async handlers"]["floor_default"],
        lines["ping-pong, async handlers"]["floor_tuned"],
    )


def test_tiny_numbers_judge_nothing() -> None:
    assert all(line["met"] is None for line in measured("ring", "codec").values())


def test_every_actor_answers_and_every_body_is_hashed_once() -> None:
    lines = measured("million", "pipeline")

    answered = lines["2,000 actors, answered"]
    assert answered["value"] == answered["n"]
    assert lines["pipeline, hashes taken of each body"]["value"] == 1


def test_the_table_has_a_line_for_each_measure() -> None:
    lines = benchmark("--quick", "--only", "fan-in", "--table")

    assert json.loads(lines[0])["measure"] == "fan-in, 100 to 1"
    assert lines[-3].startswith("measure")
    assert lines[-2].startswith("fan-in, 100 to 1")
    assert lines[-1].startswith("fan-in, async, with a field")


def test_the_rows_can_be_listed() -> None:
    names = benchmark("--list")

    assert {"ping-pong", "ask", "fan-in", "ring", "spawn", "children", "idle", "million", "crash"} < set(
        names
    )
    assert {"pipeline", "latency", "codec", "import"} < set(names)
