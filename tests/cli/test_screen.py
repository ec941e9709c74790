"""The live screen: what its lines say, and that it draws over itself and nothing else."""

from __future__ import annotations

import io
import re

import attrs
import pytest

from avm.cli.screen import HIDE_CURSOR, SHOW_CURSOR, STOP_HINT, Screen, clock_text, figure_lines, waiting_text
from tests.cli.measured import FIGURES

HUGE = attrs.evolve(
    FIGURES,
    agents=1_000_000,
    waiting={"Idle": 123_456, "LlmReply": 234_567, "ToolResult": 345_678},
    rss_bytes=900 << 30,
    store_bytes=900 << 30,
    held_bytes=999 << 40,
    requests=10**9,
    tool_calls=10**9,
    restarts=99_999,
    resumed=99_999,
    dead_letters=99_999,
    latency_p50_ms=99_999.0,
    latency_p99_ms=99_999.0,
)


class Terminal:
    """As much of a terminal as the screen uses: cursor up, carriage return, clear."""

    def __init__(self) -> None:
        self.rows: list[str] = [""]
        self.row = self.column = 0

    def feed(self, text: str) -> None:
        """Take what a program wrote."""
        for part in re.findall(r"\x1b\[[?\d;]*[A-Za-z]|\n|\r|[^\x1b\n\r]+", text):
            if part == "\n":
                self.row, self.column = self.row + 1, 0
                self.rows += [""] * (self.row + 1 - len(self.rows))
            elif part == "\r":
                self.column = 0
            elif part.startswith("\x1b"):
                self._control(part)
            else:
                row = self.rows[self.row].ljust(self.column)
                self.rows[self.row] = row[: self.column] + part + row[self.column + len(part) :]
                self.column += len(part)

    def _control(self, part: str) -> None:
        if part.endswith("A"):
            self.row -= int(part[2:-1])
        elif part.endswith("K"):
            self.rows[self.row] = self.rows[self.row][: self.column]
        elif part.endswith("J"):
            self.rows[self.row] = self.rows[self.row][: self.column]
            del self.rows[self.row + 1 :]

    def text(self) -> str:
        """Return what can be seen."""
        return "\n".join(row.rstrip() for row in self.rows)


def test_every_figure_is_on_the_screen() -> None:
    text = "\n".join(figure_lines(FIGURES))

    for said in (
        "1,000 running: 12 active, 988 waiting",
        "model 960, tool 21, next event 7",
        "3,712 done, 35,826 turns",
        "RSS 80 MB; store 19 MB for 50 MB of conversations",
        "61.2% of what is held, 90.0% of what is sent",
        "3.14x",
        "7,012/s; 51,234 of models, 24,000 of tools",
        "p50 120 ms, p99 272 ms; 960 under way, 3 queued",
        "4, 4 conversations resumed; 2 dead letters",
        "31 events deep in all, 9 in the fullest",
        "scripted; 0.96 cores, up 1:23",
    ):
        assert said in text


@pytest.mark.parametrize("figures", [FIGURES, HUGE])
def test_the_lines_fit_into_80_columns(figures: object) -> None:
    assert max(len(line) for line in figure_lines(figures)) < 80  # type: ignore[arg-type]


def test_the_whole_screen_fits_into_24_lines() -> None:
    terminal = Terminal()
    out = io.StringIO()
    screen = started(out)

    screen.show(FIGURES)
    terminal.feed(out.getvalue())

    assert len(terminal.rows) < 24


def started(out: io.StringIO) -> Screen:
    screen = Screen(out, colours=False)
    screen.title("avm")
    for part in ("workload", "store", "I/O pool", "supervisors", "agents"):
        screen.started(part, "is up")
    return screen


def test_a_new_measurement_is_drawn_over_the_old_one() -> None:
    terminal = Terminal()
    out = io.StringIO()
    screen = started(out)

    screen.show(attrs.evolve(FIGURES, agents=111))
    screen.show(attrs.evolve(FIGURES, agents=22))
    terminal.feed(out.getvalue())

    text = terminal.text()
    assert "22 running" in text
    assert "111 running" not in text
    assert text.count("agents   ") == 2
    assert text.count(STOP_HINT) == 1
    assert "\u2713 workload       is up" in text


def test_what_is_logged_stands_above_the_figures() -> None:
    terminal = Terminal()
    out = io.StringIO()
    screen = started(out)

    screen.show(FIGURES)
    screen.note("ERROR agent-7 crashed\nfor no reason")
    screen.show(FIGURES)
    terminal.feed(out.getvalue())

    text = terminal.text()
    assert text.count("988 waiting") == 1
    assert (
        text.index("is up") < text.index("ERROR agent-7 crashed\nfor no reason") < text.index("988 waiting")
    )


def test_at_the_end_the_figures_stay_and_the_hint_and_the_hidden_cursor_do_not() -> None:
    terminal = Terminal()
    out = io.StringIO()
    screen = started(out)

    screen.show(FIGURES)
    screen.finish(FIGURES)
    screen.restore()
    terminal.feed(out.getvalue())

    assert "988 waiting" in terminal.text()
    assert STOP_HINT not in terminal.text()
    assert out.getvalue().rindex(SHOW_CURSOR) > out.getvalue().rindex(HIDE_CURSOR)


def test_colours_are_left_out_when_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    plain, coloured = io.StringIO(), io.StringIO()

    Screen(plain).started("store", "is up")
    Screen(coloured, colours=True).started("store", "is up")

    assert "\x1b[" not in plain.getvalue()
    assert "\x1b[32m" in coloured.getvalue()


def test_the_most_frequent_reason_comes_first_and_idleness_last() -> None:
    assert waiting_text({"Idle": 900, "ToolResult": 2, "LlmReply": 50}) == "model 50, tool 2, next event 900"
    assert waiting_text({}) == "nothing"


@pytest.mark.parametrize("seconds, text", [(7.9, "0:07"), (750, "12:30"), (3723, "1:02:03")])
def test_time_is_written_as_people_write_it(seconds: float, text: str) -> None:
    assert clock_text(seconds) == text
