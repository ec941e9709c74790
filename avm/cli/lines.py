"""The main job where nobody looks at a screen: plain lines for a log or a pipe, and JSON lines for a program."""

from __future__ import annotations

import json
import sys
from typing import Protocol, TextIO

from avm.cli.figures import Figures
from avm.cli.gates import io_line, io_rows
from avm.cli.screen import (
    CHECK,
    Screen,
    clock_text,
    conversations_text,
    restarts_text,
    tiers_text,
    waiting_text,
)
from avm.memory import format_size


class Display(Protocol):
    """How the job is shown."""

    @property
    def interval(self) -> float:
        """Seconds from one measurement to the next."""

    def title(self, text: str) -> None:
        """Begin with what this is."""

    def started(self, label: str, text: str) -> None:
        """Tell that a part is up."""

    def show(self, figures: Figures) -> None:
        """Show a measurement."""

    def note(self, text: str) -> None:
        """Show something that happened."""

    def finish(self, figures: Figures) -> None:
        """Show the last measurement."""

    def restore(self) -> None:
        """Leave the terminal as it was."""


class PlainLines:
    """One line a second."""

    interval = 1.0

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._check = CHECK if _is_unicode(out) else "ok"

    def title(self, text: str) -> None:
        self._say(text)

    def started(self, label: str, text: str) -> None:
        self._say(f"{self._check} {label}: {text}")

    def show(self, figures: Figures) -> None:
        self._say(figure_line(figures))

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def finish(self, figures: Figures) -> None:
        self._say(f"in all: {figure_line(figures)}")

    def restore(self) -> None:
        pass

    def _say(self, line: str) -> None:
        print(line, file=self._out, flush=True)


class JsonLines:
    """One JSON object a second; all else goes to standard error."""

    interval = 1.0

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def title(self, text: str) -> None:
        pass

    def started(self, label: str, text: str) -> None:
        pass

    def show(self, figures: Figures) -> None:
        print(json.dumps(figures.as_json()), file=self._out, flush=True)

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def finish(self, figures: Figures) -> None:
        self.show(figures)

    def restore(self) -> None:
        pass


def choose_display(as_json: bool, out: TextIO, term: str) -> Display:
    """Return JSON lines if they are wanted, the live screen on a terminal that can draw it, else plain lines."""
    if as_json:
        return JsonLines(out)
    if out.isatty() and _is_unicode(out) and term not in ("", "dumb"):
        return Screen(out)
    return PlainLines(out)


def _is_unicode(out: TextIO) -> bool:
    return (out.encoding or "ascii").lower().startswith("utf")


def figure_line(figures: Figures) -> str:
    """Put figures in one line."""
    f = figures
    io = io_line(io_rows(f.io))
    return (
        f"{clock_text(f.seconds)}  {f.agents:,} agents, {f.active:,} active, waiting for {waiting_text(f.waiting)}; "
        f"conversations {conversations_text(f)}; {f.requests_per_s:,.0f} requests/s, "
        f"p50 {f.latency_p50_ms:,.0f} ms, p99 {f.latency_p99_ms:,.0f} ms; RSS {format_size(f.rss_bytes)}, "
        f"store {format_size(f.store_bytes)} ({tiers_text(f)}), "
        f"dedup {f.dedup_held:.1%} held, {f.dedup_sent:.1%} sent, compression {f.compression:.2f}x; "
        f"{io}{'; ' if io else ''}restarts {restarts_text(f)}; mailboxes {f.mailbox:,}; provider {f.provider}; "
        f"{f.cores:.2f} cores"
    )
