"""The benchmark of the memory manager runs and says what it should; how good the figures are, it says itself."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from avm.memory import Store, write_conversations

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "memory.py"
ROWS = {
    "mix",
    "mix-rss",
    "fleet",
    "prompts",
    "versions",
    "render",
    "loop",
    "wake",
    "commits",
    "checkpoint",
    "job",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of small files in the place of the real conversations."""
    folder = tmp_path_factory.mktemp("data")
    chance = random.Random(1)
    words = ["".join(chance.choices("abcdefghij", k=chance.randrange(3, 9))) for _ in range(500)]

    def text(count: int) -> str:
        return " ".join(chance.choices(words, k=count))

    def conversation(name: str, number: int, tools: list[dict[str, Any]]) -> dict[str, Any]:
        messages = [
            {"role": ("user", "assistant")[at % 2], "content": text(20 if at else 900)}
            for at in range(40 if number == 0 else 6)
        ]
        return {
            "id": f"{name}-{number}",
            "system": f"Policy of {name}. {text(50)}",
            "tools": tools,
            "messages": messages,
        }

    for name, tools in (
        ("tau_airline", [{"type": "function", "function": {"name": "book"}}]),
        ("swe_agent_java", []),
        ("mint", []),
        ("intercode", []),
    ):
        write_conversations(
            folder / f"{name}.jsonl.zst", [conversation(name, number, tools) for number in range(4)]
        )
    return folder


def benchmark(data: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--data", str(data), *arguments]
    environment = {**os.environ, "XDG_CACHE_HOME": str(data)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def measured(data: Path, *names: str) -> dict[str, dict[str, Any]]:
    only = [argument for name in names for argument in ("--only", name)]
    done = benchmark(data, "--quick", *only)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {line["measure"]: line for line in lines}


def test_sizes_and_times_are_lines_of_json_with_their_bars(data: Path) -> None:
    lines = measured(data, "mix", "versions", "render", "loop")

    assert lines["mix, accounted bytes an agent"]["bar"] == "<= 4000 B"
    assert lines["append with root at 30 messages"]["peers"].keys() == {
        "list.append",
        "list.append + json + blake3",
    }
    for line in lines.values():
        assert {"measure", "n", "value", "unit", "met"} <= line.keys()
        assert line["value"] is None or line["value"] >= 0


def test_tiny_numbers_judge_nothing(data: Path) -> None:
    assert all(line["met"] is None for line in measured(data, "mix", "versions").values())


def test_resident_sizes_are_those_of_every_side(data: Path) -> None:
    lines = measured(data, "mix-rss", "fleet")

    for name in ("mix, warm", "fleet with a prefix of 1 KB, warm"):
        assert lines[name]["peers"].keys() == {"plain dicts", "hash per message + zstd"}
        assert lines[name]["floor"] == lines[name]["peers"]["plain dicts"]


def test_without_langgraph_its_figure_is_null_and_the_note_says_how_to_get_it(data: Path) -> None:
    lines = measured(data, "prompts")

    for line in lines.values():
        assert line["peers"]["LangGraph (InMemorySaver)"] is None
        assert "--with-langgraph" in line["note"]


def test_rows_that_need_a_home_are_measured_or_say_why_not(data: Path) -> None:
    lines = measured(data, "wake", "commits", "checkpoint")

    for line in lines.values():
        if hasattr(Store, "open"):
            assert line["value"] > 0
        else:
            assert line["value"] is None
            assert "Store.open" in line["note"]


def test_the_main_job_is_watched_until_it_has_finished(data: Path) -> None:
    lines = measured(data, "job")

    played = lines["4 agents under 256 MB, conversations"]
    assert played["value"] == 4, played["note"]
    assert lines["4 agents under 256 MB, peak RSS"]["value"] > 10


def test_the_table_has_a_line_for_each_measure(data: Path) -> None:
    lines = benchmark(data, "--quick", "--only", "versions", "--table").stdout.splitlines()

    assert json.loads(lines[0])["measure"] == "fork at 30 messages"
    assert lines[-3].startswith("measure")
    assert lines[-2].startswith("fork at 30 messages")
    assert "deepcopy" in lines[-2]
    assert lines[-1].startswith("append with root")


def test_without_the_conversations_it_says_where_to_give_them(data: Path, tmp_path: Path) -> None:
    done = benchmark(tmp_path, "--quick", "--only", "mix")

    assert done.returncode == 2
    assert "tau_airline.jsonl.zst" in done.stderr
    assert "--data DIR" in done.stderr


def test_the_rows_can_be_listed(data: Path) -> None:
    assert set(benchmark(data, "--list").stdout.split()) == ROWS
