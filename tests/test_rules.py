"""The numbered promises of docs/explanation/semantics.md, the tests that cite them, and the code that does."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from avm import Actor

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "explanation" / "semantics.md").read_text(encoding="utf-8")

RULE = re.compile(r"(?<![A-Za-z0-9])[Ss](\d{1,3})(?![0-9A-Za-z])(?:_to_[Ss](\d{1,3}))?")
"""S66, as in a docstring; s66 or s63_to_s70, as in the name of a test."""


def rules(text: str) -> set[int]:
    """Return the numbers of the rules that a text cites."""
    found: set[int] = set()
    for match in RULE.finditer(text):
        first, last = int(match[1]), int(match[2] or match[1])
        found.update(range(first, last + 1))
    return found


def cited_in(folder: str) -> set[int]:
    """Return the rules that the Python files of a folder cite."""
    files = sorted((ROOT / folder).rglob("*.py"))
    return set().union(*(rules(file.read_text(encoding="utf-8")) for file in files if file != Path(__file__)))


def promised() -> set[int]:
    """Return the rules that have a row of their own on the page."""
    return set().union(*(rules(row) for row in re.findall(r"^\| (S\d+(?:, S\d+)*) \|", PAGE, re.MULTILINE)))


def words(numbers: Iterable[int]) -> str:
    return ", ".join(f"S{n}" for n in sorted(numbers))


def test_every_promise_of_the_page_is_cited_by_a_test() -> None:
    assert words(promised() - cited_in("tests")) == ""


def test_every_rule_the_code_cites_is_on_the_page() -> None:
    assert words(cited_in("avm") - rules(PAGE)) == ""


def test_the_page_says_something_of_every_rule() -> None:
    assert words(set(range(1, 104)) - rules(PAGE)) == ""


def test_s6_an_actor_cannot_pick_among_what_waits() -> None:
    """There is no selective receive: it would make each look into the mailbox as long as the mailbox is."""
    public = {name for name in dir(Actor) if not name.startswith("_")}

    assert not public & {"receive", "mailbox", "peek", "select"}
