"""The live screen: start-up lines that stay, and below them the figures, drawn over again in place.

Plain ANSI, no more than cursor up, clear to the end of the line, and three colours: what a terminal has shown stays in
its scroll-back, the last figures too. What is logged meanwhile is written above the figures.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import TextIO

from avm.cli.figures import IDLE, Figures
from avm.cli.gates import io_rows
from avm.memory import format_size

CHECK = "\u2713"
LABEL = 15

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
CLEAR_LINE, CLEAR_BELOW = "\x1b[K", "\x1b[J"
BOLD, DIM, GREEN, PLAIN = "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[0m"

STOP_HINT = "Press Ctrl+C to stop"


class Screen:
    """Draws the job on a terminal.

    Args:
        out: the terminal.
        colours: False leaves all text plain.
    """

    interval = 0.5

    def __init__(self, out: TextIO, *, colours: bool | None = None) -> None:
        self._out = out
        self._colours = "NO_COLOR" not in os.environ if colours is None else colours
        self._drawn = 0
        self._last: list[str] = []

    def title(self, text: str) -> None:
        """Begin with what this is."""
        self._out.write(f"{self._paint(BOLD, text)}\n\n")
        self._out.flush()

    def started(self, label: str, text: str) -> None:
        """Tell that a part is up."""
        self._out.write(
            f"  {self._paint(GREEN, CHECK)} {_fit(f'{label:<{LABEL}}{text}', self._width() - 4)}\n"
        )
        self._out.flush()

    def show(self, figures: Figures) -> None:
        """Draw the figures in place of the last ones."""
        self._last = [*figure_lines(figures), "", f"  {STOP_HINT}"]
        self._draw(HIDE_CURSOR)

    def note(self, text: str) -> None:
        """Write some text above the figures."""
        self._out.write(f"{self._up()}{CLEAR_BELOW}")
        self._drawn = 0
        for line in text.splitlines():
            self._out.write(f"{line}\n")
        if self._last:
            self._draw("")

    def finish(self, figures: Figures) -> None:
        """Draw the last figures and give the terminal back."""
        self._last = figure_lines(figures)
        self._out.write(f"{self._up()}{CLEAR_BELOW}")
        self._drawn = 0
        self._draw("")
        self._out.write(SHOW_CURSOR)
        self._out.flush()

    def restore(self) -> None:
        """Give the terminal back, whatever has happened."""
        self._out.write(SHOW_CURSOR)
        self._out.flush()

    def _draw(self, before: str) -> None:
        width, height = self._width(), shutil.get_terminal_size().lines
        # Lines that have left the screen at its top cannot be drawn over.
        lines = self._last[-(height - 1) :]
        text = "".join(f"{self._line(line, width)}{CLEAR_LINE}\n" for line in lines)
        self._out.write(f"{before}{self._up()}{text}{CLEAR_BELOW}")
        self._out.flush()
        self._drawn = len(lines)

    def _line(self, line: str, width: int) -> str:
        line = _fit(line, width - 1)
        label, rest = line[: LABEL + 4], line[LABEL + 4 :]
        if not rest or line.strip() == STOP_HINT:
            return self._paint(BOLD, line) if line.strip() == STOP_HINT else line
        return self._paint(DIM, label) + rest

    def _up(self) -> str:
        return f"\x1b[{self._drawn}A\r" if self._drawn else ""

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{PLAIN}" if self._colours and text else text

    def _width(self) -> int:
        return shutil.get_terminal_size().columns


def figure_lines(figures: Figures) -> list[str]:
    """Put figures in lines of at most 80 columns, label first."""
    f = figures
    rows = [
        ("agents", f"{f.agents:,} running: {f.active:,} active, {sum(f.waiting.values()):,} waiting"),
        ("waiting for", waiting_text(f.waiting)),
        ("conversations", conversations_text(f)),
        (
            "memory",
            f"RSS {format_size(f.rss_bytes)}; store {format_size(f.store_bytes)} "
            f"for {format_size(f.held_bytes)} of conversations",
        ),
        ("tiers", tiers_text(f)),
        ("dedup", f"{f.dedup_held:.1%} of what is held, {f.dedup_sent:.1%} of what is sent"),
        ("compression", f"{f.compression:.2f}x"),
        ("requests", f"{f.requests_per_s:,.0f}/s; {f.requests:,} of models, {f.tool_calls:,} of tools"),
        (
            "latency",
            f"p50 {f.latency_p50_ms:,.0f} ms, p99 {f.latency_p99_ms:,.0f} ms; "
            f"{f.in_flight:,} under way, {f.queued:,} queued",
        ),
        *io_rows(f.io),
        ("restarts", restarts_text(f)),
        ("mailboxes", f"{f.mailbox:,} events deep in all, {f.deepest:,} in the fullest"),
        ("provider", f"{f.provider}; {f.cores:.2f} cores, up {clock_text(f.seconds)}"),
    ]
    return ["", *(f"    {label:<{LABEL}}{text}" for label, text in rows)]


def waiting_text(waiting: Mapping[str, int]) -> str:
    """Name the reasons agents wait for, the most frequent first."""
    ordered = sorted(waiting.items(), key=lambda item: (item[0] == IDLE, -item[1], item[0]))
    return ", ".join(f"{REASONS.get(reason, reason)} {count:,}" for reason, count in ordered) or "nothing"


REASONS = {
    "LlmReply": "model",
    "ToolResult": "tool",
    "Reply": "another actor",
    "Timer": "timer",
    "UserInput": "user",
    "Other": "something else",
    IDLE: "next event",
}


def conversations_text(figures: Figures) -> str:
    """Say how many conversations are done, and how many of them were in the home already."""
    f = figures
    read = f" ({f.read_back:,} of them were in the home)" if f.read_back else ""
    return f"{f.conversations_done:,} done{read}, {f.turns_done:,} turns"


def tiers_text(figures: Figures) -> str:
    """Say what is kept where."""
    f = figures
    cold = f", cold {format_size(f.cold_bytes)}" if f.cold_bytes or f.disk_bytes else ""
    asleep = f", {f.asleep:,} asleep" if f.asleep else ""
    disk = f"; disk {format_size(f.disk_bytes)}" if f.disk_bytes else ""
    return f"hot {format_size(f.hot_bytes)}, warm {format_size(f.warm_bytes)}{cold}{asleep}{disk}"


def restarts_text(figures: Figures) -> str:
    """Say how often agents were restarted, and what came of it."""
    resumed = f", {figures.resumed:,} conversations resumed" if figures.resumed else ""
    return f"{figures.restarts:,}{resumed}; {figures.dead_letters:,} dead letters"


def clock_text(seconds: float) -> str:
    """Write seconds as people do: 0:07, 12:30, 1:02:03."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def _fit(line: str, width: int) -> str:
    return line if len(line) <= width else line[: max(width - 1, 0)] + "\u2026"
