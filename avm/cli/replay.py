"""`avm replay FILE`: run a simulation that failed again, with the same decisions.

The program that failed, a test or a script, is run in a process of its own; the simulation in it that the file is about
takes its decisions from the file. What is printed is the timeline. The exit status is 0 if the failure came again, or
`--until` was reached, and 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from avm.errors import SimulationError
from avm.testing.replay import FailureFile

NOT_REACHED = (
    "the program ended without the simulation the file is about: its tree, its seed or its faults have changed, or it "
    "was not run. The program said:"
)

VERDICTS = {
    "failed": "The failure came again.",
    "passed": "It does not fail any more.",
    "stopped": "Stopped there.",
    "diverged": "It went another way than the run that was recorded.",
}


def replay_command(argv: Sequence[str]) -> int:
    """Carry out `avm replay` with these arguments; return the exit status."""
    options = _parser().parse_args(argv)
    try:
        file = FailureFile.read(options.file)
    except SimulationError as error:
        print(f"avm replay: {error}", file=sys.stderr)
        return 2
    if options.until is not None and not 0 <= options.until <= len(file.choices):
        print(
            f"avm replay: --until must be 0 to {len(file.choices)}, the number of decisions, got {options.until}.",
            file=sys.stderr,
        )
        return 2
    outcome, text = _run(file, options.file, options.until)
    print(text)
    if outcome is None:
        return 1
    print(f"\n{VERDICTS[outcome]}")
    return 0 if outcome in ("failed", "stopped") else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="avm replay", description="Run a simulation that failed again, with the same decisions."
    )
    parser.add_argument("file", type=Path, help="the failure file, as the failure named it")
    parser.add_argument(
        "--until", type=int, metavar="N", help="stop before decision N and show what every actor does"
    )
    return parser


# Returns the outcome, None if the simulation was not reached, and what there is to read.
def _run(file: FailureFile, path: Path, until: int | None) -> tuple[str | None, str]:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        environment = {
            **os.environ,
            "AVM_REPLAY": str(path.resolve()),
            "AVM_REPLAY_REPORT": str(report),
            **({"AVM_REPLAY_UNTIL": str(until)} if until is not None else {}),
        }
        done = subprocess.run(
            file.command(), cwd=file.folder, env=environment, capture_output=True, text=True, check=False
        )
        if not report.exists():
            return None, f"{NOT_REACHED}\n{done.stdout}{done.stderr}"
        told: dict[str, str] = json.loads(report.read_text())
    return told["outcome"], told["text"]
