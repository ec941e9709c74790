"""Plain lines and JSON lines, and which display is chosen when."""

from __future__ import annotations

import io
import json

import attrs
import pytest

from avm.cli.lines import JsonLines, PlainLines, choose_display
from avm.cli.screen import Screen
from tests.cli.measured import FIGURES


class Out(io.TextIOWrapper):
    """Standard output, on a terminal or not."""

    def __init__(self, tty: bool, encoding: str = "utf-8") -> None:
        super().__init__(io.BytesIO(), encoding=encoding)
        self.tty = tty

    def isatty(self) -> bool:
        return self.tty

    def written(self) -> str:
        """Return what was written."""
        self.flush()
        self.seek(0)
        return self.read()


@pytest.mark.parametrize(
    "as_json, tty, encoding, term, kind",
    [
        (False, True, "utf-8", "xterm", Screen),
        (False, False, "utf-8", "xterm", PlainLines),
        (False, True, "utf-8", "dumb", PlainLines),
        (False, True, "utf-8", "", PlainLines),
        (False, True, "ascii", "xterm", PlainLines),
        (True, True, "utf-8", "xterm", JsonLines),
        (True, False, "utf-8", "xterm", JsonLines),
    ],
)
def test_the_screen_is_for_terminals_that_can_draw_it(
    as_json: bool, tty: bool, encoding: str, term: str, kind: type
) -> None:
    assert type(choose_display(as_json, Out(tty, encoding), term)) is kind


def test_plain_lines_are_lines_without_controls() -> None:
    out = Out(False)
    display = PlainLines(out)

    display.title("avm")
    display.started("store", "is up")
    display.show(FIGURES)
    display.finish(FIGURES)
    display.restore()

    lines = out.written().splitlines()
    assert lines[:2] == ["avm", "\u2713 store: is up"]
    assert lines[2].startswith(
        "1:23  1,000 agents, 12 active, waiting for model 960, tool 21, next event 7; "
    )
    assert lines[3] == f"in all: {lines[2]}"
    assert "\x1b" not in out.written()


def test_a_terminal_without_unicode_gets_its_check_marks_in_letters() -> None:
    out = Out(False, "ascii")

    PlainLines(out).started("store", "is up")

    assert out.written() == "ok store: is up\n"


def test_json_lines_are_nothing_but_json(capsys: pytest.CaptureFixture[str]) -> None:
    out = Out(False)
    display = JsonLines(out)

    display.title("avm")
    display.started("store", "is up")
    display.show(FIGURES)
    display.note("something happened")
    display.finish(attrs.evolve(FIGURES, final=True))
    display.restore()

    found = [json.loads(line) for line in out.written().splitlines()]
    assert [line.get("final") for line in found] == [None, True]
    assert capsys.readouterr().err == "something happened\n"
