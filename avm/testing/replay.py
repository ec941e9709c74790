"""Failure files: a simulation that failed, written down so that it can be run again to any of its decisions.

A file holds which program it was (a test of pytest, or a command line), which simulation in it, the decisions and the
timeline. `avm replay FILE` runs that program again; the first simulation in it of the same tree, seed and faults takes
its decisions from the file. The channel between the two are environment variables: `AVM_REPLAY` names the file,
`AVM_REPLAY_UNTIL` the decision to stop before, `AVM_REPLAY_REPORT` where the outcome is to be written.
"""

from __future__ import annotations

import json
import os
import re
import sys
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import attrs

from avm.errors import SimulationError
from avm.testing.choices import Recorded
from avm.testing.trace import stable

VERSION = 1

FOLDER = ".avm-failures"
"""Where failure files go, unless `failures=` or the variable AVM_FAILURES says otherwise."""

Outcome = Literal["failed", "passed", "stopped", "diverged"]


@attrs.frozen(slots=True, kw_only=True)
class FailureFile:
    """What a failure file says.

    Attributes:
        program: the words of the command that ran it; folder: where.
        test: the test of pytest it was in, "" if it was in none.
        key: which simulation of that program: a digest of tree, seed and faults.
        choices, sizes: what was chosen at each decision, and out of how many.
        error: what it failed with; timeline: what happened last.
    """

    program: tuple[str, ...]
    folder: str
    test: str
    key: str
    seed: int | None
    choices: tuple[int, ...]
    sizes: tuple[int, ...]
    error: str
    timeline: str

    def command(self) -> list[str]:
        """Return the command that runs the program again; a test alone, not its whole suite."""
        if self.test:
            return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", self.test]
        return [sys.executable, *self.program[1:]]

    def write(self, folder: Path) -> Path:
        """Write it and return where; a failure of the same test and simulation is written over."""
        folder.mkdir(parents=True, exist_ok=True)
        name = self.test.rpartition("/")[2] or Path(self.program[-1]).stem if self.program else "simulation"
        path = folder / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)[:80].strip('-.')}.json"
        path.write_text(json.dumps({"version": VERSION, **attrs.asdict(self)}, separators=(",", ":")))
        return path

    @classmethod
    def read(cls, path: Path) -> FailureFile:
        """Read one.

        Raises:
            SimulationError: there is no such file, or it is not one.
        """
        try:
            found: dict[str, Any] = json.loads(path.read_text())
            version = found.pop("version")
            if version != VERSION:
                raise SimulationError(f"{path} is of version {version!r}; this avm reads version {VERSION}.")
            for name in ("program", "choices", "sizes"):
                found[name] = tuple(found[name])
            return cls(**found)
        except OSError as error:
            raise SimulationError(f"cannot read the failure file {path}: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SimulationError(f"{path} is not a failure file of avm ({error}).") from error


def key_of(tree: object, seed: int | None, faults: object) -> str:
    """Return the digest by which a replay knows a simulation again."""
    text = f"{stable(tree, limit=1_000_000, depth=100)} {seed} {stable(faults, limit=1_000_000, depth=100)}"
    return blake2b(text.encode(), digest_size=8).hexdigest()


def running_test() -> str:
    """Return the test of pytest that runs now, "" if none does."""
    return os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]


def failure_folder(given: str | Path | None) -> Path:
    """Return where failure files go."""
    return Path(given if given is not None else os.environ.get("AVM_FAILURES", FOLDER))


@attrs.define(slots=True)
class Replay:
    """The replay this process is for."""

    file: FailureFile
    until: int | None
    report: Path | None
    taken: bool = False

    def choices(self) -> Recorded:
        """Return the recorded choices."""
        return Recorded(self.file.choices, self.file.sizes)

    def tell(self, outcome: Outcome, text: str) -> None:
        """Report how it went to whoever asked for the replay."""
        if self.report is not None:
            self.report.write_text(json.dumps({"outcome": outcome, "text": text}))


_replays: dict[str, Replay] = {}


def replay_of(key: str) -> Replay | None:
    """Return the replay this process is for, if it is of this simulation; each is taken once."""
    name = os.environ.get("AVM_REPLAY")
    if not name:
        return None
    found = _replays.get(name)
    if found is None:
        until = os.environ.get("AVM_REPLAY_UNTIL")
        report = os.environ.get("AVM_REPLAY_REPORT")
        found = _replays[name] = Replay(
            FailureFile.read(Path(name)), int(until) if until else None, Path(report) if report else None
        )
    if found.taken or found.file.key != key:
        return None
    found.taken = True
    return found
