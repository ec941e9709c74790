"""The main job from its command line to its last line: real agents, pool and store, small conversations."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from avm.cli.job import job_command
from avm.cli.main import main
from tests.cli.recorded import lines_of, read_file, records, write_file

ROOT = Path(__file__).resolve().parents[2]
FILES = ["tau_airline", "intercode", "mint", "swe_agent_java"]


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    """A file of six small conversations."""
    return write_file(tmp_path / "talks.jsonl.zst", lines_of(records(6)))


@pytest.fixture(autouse=True)
def _plain_output(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")


def final(out: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    assert found.pop("final") is True
    return found


def job(*argv: object) -> int:
    return job_command(["--memory", "1GB", *map(str, argv)])


def test_every_conversation_is_played_once_and_kept_as_recorded(
    workload: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.jsonl.zst"

    status = job(
        "--agents", 3, "--once", "--workload", workload, "--model-latency", 0, "--out", kept, "--json"
    )

    printed = capsys.readouterr()
    assert status == 0
    last = final(printed.out)
    assert (last["conversations_done"], last["turns_done"], last["requests"], last["agents"]) == (
        6,
        12,
        24,
        3,
    )
    assert read_file(kept) == lines_of(records(6))
    assert printed.err == f"avm: 6 conversations played, each kept as recorded. 6 written to {kept}.\n"


def test_as_many_conversations_are_played_as_asked_for(
    workload: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.jsonl"

    status = job(
        "--agents", 2, "--conversations", 8, "--workload", workload, "--model-latency", 0, "--out", kept
    )

    assert status == 0
    assert kept.read_bytes() == lines_of(records(6) + records(2))
    assert "in all: " in capsys.readouterr().out


def test_without_a_goal_the_job_ends_when_its_time_is_over(
    workload: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = job("--agents", 2, "--duration", 0.1, "--workload", workload, "--model-latency", "1ms", "--json")

    printed = capsys.readouterr()
    assert status == 0
    assert final(printed.out)["requests"] > 0
    assert printed.err.startswith("avm: stopped after 0.1 s (--duration); ")


def test_a_goal_that_was_not_reached_in_time_is_a_failure(
    workload: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = job(
        "--agents", 1, "--once", "--duration", 0.05, "--workload", workload, "--model-latency", "1s", "--json"
    )

    printed = capsys.readouterr()
    assert status == 1
    assert final(printed.out)["waiting"] == {"LlmReply": 1}
    assert printed.err.startswith("avm: stopped after 0.05 s (--duration) with only 0 conversations played;")


def test_crashed_agents_come_back_and_their_conversations_are_kept_as_recorded(
    workload: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "kept.jsonl"

    status = job(
        *("--agents", 3, "--conversations", 240, "--workload", workload, "--model-latency", "1ms"),
        *("--chaos", 300, "--seed", 1, "--out", kept, "--json"),
    )

    printed = capsys.readouterr()
    last = final(printed.out)
    assert status == 0
    assert last["restarts"] > 0
    assert last["conversations_done"] == 240
    assert kept.read_bytes() == lines_of(records(6) * 40)
    assert printed.err.count("\n") == 1, "crashes on purpose are not reported"


@pytest.mark.parametrize(
    "argv, says",
    [
        (["--agents", "0"], "--agents must be a whole number of 1 or more, got '0'"),
        (["--memory", "3 bananas"], "--memory '3 bananas' is not a size"),
        (["--memory", "63MB"], "--memory '63MB' is below the floor of 64 MB"),
        (["--workload", "missing.zst"], "workload missing.zst: there is no file"),
        (["--workload", __file__], f"workload {__file__} is not zstd"),
        (["--out", "missing/kept.zst"], "--out missing/kept.zst: cannot write (No such file or directory)"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(argv)

    printed = capsys.readouterr()
    assert status == 2
    assert printed.out == ""
    assert printed.err.startswith(f"avm: {says}")
    assert printed.err.count("\n") == 1


def test_a_disk_that_is_full_ends_the_job_with_status_1(
    workload: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = job(
        "--agents", 2, "--once", "--workload", workload, "--model-latency", 0, "--out", "/dev/full", "--json"
    )

    printed = capsys.readouterr()
    assert status == 1
    assert printed.err.startswith("avm: --out /dev/full: cannot write (No space left on device)")
    assert final(printed.out)


def test_agents_that_fail_without_an_end_give_the_job_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from avm.io import RecordedProvider

    async def reply(self: RecordedProvider, request: object, number: int) -> object:
        raise RuntimeError("no such model")

    monkeypatch.setattr(RecordedProvider, "reply", reply)

    status = job("--agents", 1, "--once", "--model-latency", 0, "--json")

    printed = capsys.readouterr()
    assert status == 1
    assert "'job' gave up" in printed.err.splitlines()[-1]
    assert final(printed.out)["restarts"] > 0


# -- as a program of its own ----------------------------------------------------------------------------------


@pytest.fixture
def avm() -> Iterator[Any]:
    """Starts the command; ends it if the test has not."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*argv: object, **options: Any) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-W", "error", "-m", "avm.cli.main", *map(str, argv)]
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_job_in_order_with_the_last_figures(avm: Any, number: int, status: int) -> None:
    process = avm("--agents", 20, "--model-latency", "5ms", "--json")
    process.stdout.readline()

    process.send_signal(number)
    out, err = process.communicate(timeout=20)

    assert process.returncode == status
    assert final(out.decode())["requests"] > 0
    assert err.decode() == f"avm: stopped by {signal.Signals(number).name}.\n"


@pytest.mark.slow
def test_a_reader_that_goes_away_ends_the_job_without_a_word(avm: Any) -> None:
    process = avm("--agents", 5, "--model-latency", "5ms", "--json")
    process.stdout.readline()
    process.stdout.close()

    assert process.wait(timeout=20) == 141
    assert process.stderr.read() == b""


@pytest.mark.slow
def test_on_a_terminal_the_live_screen_is_drawn(avm: Any) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    env = {**os.environ, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    process = avm("--agents", 20, "--duration", 1.2, "--model-latency", "5ms", stdout=theirs, env=env)
    os.close(theirs)
    shown = b""
    until = time.monotonic() + 20
    while time.monotonic() < until:
        try:
            part = os.read(ours, 65536)
        except OSError:
            break
        if not part:
            break
        shown += part
    os.close(ours)

    assert process.wait(timeout=20) == 0
    text = shown.decode()
    for part in ("workload", "store", "I/O pool", "supervisors", "agents"):
        assert f"\u2713\x1b[0m {part}" in text
    assert "20 running" in text
    assert "Press Ctrl+C to stop" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


@pytest.mark.slow
@pytest.mark.parametrize("chaos", [0, 50])
@pytest.mark.parametrize("name", FILES)
def test_a_thousand_agents_play_every_recorded_file(
    data_dir: Path, tmp_path: Path, name: str, chaos: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is kept equals what was recorded, byte for byte, with and without crashes."""
    path, kept = data_dir / f"{name}.jsonl.zst", tmp_path / "kept.jsonl.zst"

    status = job_command(
        f"--agents 1000 --memory 2GB --once --workload {path} --out {kept} --chaos {chaos} --seed 7 --json "
        f"--model-latency {'20ms' if chaos else '0'}".split()
    )

    last = final(capsys.readouterr().out)
    assert status == 0
    assert (last["restarts"] > 0) == bool(chaos)
    assert read_file(kept) == read_file(path)
