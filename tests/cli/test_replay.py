"""`avm replay`: a failed simulation runs again, with the same decisions, up to any of them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from avm.cli.main import main
from avm.cli.replay import VERDICTS
from avm.testing import simulate
from avm.testing.replay import FailureFile
from tests.testing.shop import CarelessClerk, shop

ROOT = Path(__file__).resolve().parents[2]

PROGRAM = """
from avm.testing import simulate
from tests.testing.shop import CarelessClerk, Get, Sell, shop


def test_nothing_is_lost():
    for seed in range(3):
        with simulate(shop(CarelessClerk, clerks=3), seed=seed) as sim:
            sim.tell("clerk0", Sell())
    with simulate(shop(CarelessClerk, clerks=3), seed=9) as sim:
        for n in range(3):
            sim.send(f"clerk{n}", Sell())
        sim.advance(5)
        assert sim.ask("shelf", Get()) == 3


if __name__ == "__main__":
    test_nothing_is_lost()
"""


def failing(folder: Path, *command: str) -> FailureFile:
    """Run the program, which fails, and return the file it leaves."""
    (folder / "test_program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("AVM_FAILURES", None)
    environment.pop("PYTEST_CURRENT_TEST", None)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "To run it again with the same decisions: avm replay .avm-failures/" in done.stdout + done.stderr
    (path,) = (folder / ".avm-failures").iterdir()
    return FailureFile.read(path)


def replay(
    folder: Path, *options: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """Run `avm replay` on the one file there and return what it printed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (path,) = (folder / ".avm-failures").iterdir()
    status = main(["replay", str(path), *options])
    text = capsys.readouterr().out
    assert (status == 0) == (VERDICTS["failed"] in text or VERDICTS["stopped"] in text)
    return text


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["test_program.py", "-m pytest -q test_program.py"], ids=["script", "pytest"]
)
def test_a_failure_is_run_again_and_stopped_at_a_decision(
    tmp_path: Path,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = failing(tmp_path, *command.split())
    assert file.seed == 9
    assert len(file.choices) > 3

    again = replay(tmp_path, monkeypatch=monkeypatch, capsys=capsys)
    assert file.timeline in again
    assert VERDICTS["failed"] in again

    until = replay(tmp_path, "--until", "1", monkeypatch=monkeypatch, capsys=capsys)
    assert "stopped before decision 1" in until
    assert re.search(r"clerk\d +ready", until)
    assert max(int(number) for number in re.findall(r"#(\d+) ", until)) == 0


@pytest.mark.slow
def test_a_bug_that_was_mended_does_not_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(tmp_path, "test_program.py")
    (tmp_path / "test_program.py").write_text(PROGRAM.replace("== 3", ">= 1"))

    assert VERDICTS["passed"] in replay(tmp_path, monkeypatch=monkeypatch, capsys=capsys)


@pytest.mark.slow
def test_a_program_that_does_something_else_now_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing(tmp_path, "test_program.py")

    (tmp_path / "test_program.py").write_text(PROGRAM.replace("for n in range(3)", "for n in range(2)"))
    assert VERDICTS["diverged"] in replay(tmp_path, monkeypatch=monkeypatch, capsys=capsys)

    (tmp_path / "test_program.py").write_text(PROGRAM.replace("seed=9", "seed=10"))
    assert "without the simulation the file is about" in replay(
        tmp_path, monkeypatch=monkeypatch, capsys=capsys
    )


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot read the failure file"),
        ("{", "is not a failure file"),
        ("[]", "is not a failure file"),
        ('{"version": 99}', "version 99"),
        ('{"version": 1, "choices": []}', "is not a failure file"),
    ],
)
def test_a_file_that_is_none_is_told_in_one_line(
    tmp_path: Path, content: str | None, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "failure.json"
    if content is not None:
        path.write_text(content)

    assert main(["replay", str(path)]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert told.count("\n") == 1


def test_until_is_a_decision_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError), simulate(shop(CarelessClerk), failures=tmp_path) as sim:
        raise AssertionError(sim.now)
    (path,) = tmp_path.iterdir()

    assert main(["replay", str(path), "--until", "9999"]) == 2
    assert "the number of decisions" in capsys.readouterr().err
