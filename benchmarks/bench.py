"""The bench: what all rows of the memory benchmark measure with."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import attrs
from histories import Histories, History

KB, MB = 1000, 1_000_000


@attrs.define(slots=False, eq=False)
class Bench:
    """What all rows measure with: the data, a folder, and the Python that has LangGraph."""

    data: Path
    folder: Path
    python: str | None
    quick: bool

    @cached_property
    def histories(self) -> Histories:
        """The conversations, read once and put out of the collector's sight."""
        found = Histories.read(self.data)
        gc.collect()
        gc.freeze()
        return found

    def home(self) -> Path:
        """Make an empty folder."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def lines(self, histories: Sequence[History]) -> Path:
        """Write histories for processes that hold them, one a line."""
        path = self.home() / "agents.jsonl"
        path.write_bytes(b"".join(history.line() + b"\n" for history in histories))
        return path
