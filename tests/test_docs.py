"""The code in the documentation runs, and prints what the pages say it prints.

The python blocks of a page are one program, run from top to bottom; a text block right after one is what it prints.
Functions called test_something are then called, as pytest would. Links between pages lead somewhere.

A block that begins with ```python needs a, b is left out where these modules are not installed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import io
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import attrs
import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
"""All but changelog.d, whose files are one sentence each."""

FENCE = re.compile(
    r"^```(?P<kind>\w+)(?: needs (?P<needs>[\w, ]+))?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\(([^)#]+)(?:#[^)]*)?\)")


@attrs.frozen
class Block:
    """One fenced block; `line` is where it begins, `prints` the text block that follows at once, `needs` what must be
    installed to run it."""

    line: int
    code: str
    prints: str | None
    needs: tuple[str, ...] = ()

    @property
    def can_run(self) -> bool:
        return all(importlib.util.find_spec(module) is not None for module in self.needs)


def blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    for n, match in enumerate(found):
        if match["kind"] != "python":
            continue
        after = found[n + 1] if n + 1 < len(found) else None
        adjoins = (
            after is not None and after["kind"] == "text" and not text[match.end() : after.start()].strip()
        )
        line = text.count("\n", 0, match.start()) + 2
        needs = tuple(re.findall(r"\w+", match["needs"] or ""))
        yield Block(line, match["code"], after["code"] if after is not None and adjoins else None, needs)


def unnumbered(text: str) -> str:
    """Without the serial numbers of pids, which depend on how many actors the VM has of its own."""
    return re.sub(r"#\d+\b", "#N", text)


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.fixture
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """A module for the code of one page, on a machine without a key."""
    for setting in ("ANTHROPIC_API_KEY", "AVM_PROVIDER", "AVM_BASE_URL"):
        monkeypatch.delenv(setting, raising=False)
    monkeypatch.setenv("AVM_FAILURES", str(tmp_path))
    module = ModuleType("page_" + re.sub(r"\W", "_", request.node.callspec.id))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.mark.parametrize("page", [p for p in PAGES if list(blocks(p))], ids=name_of)
def test_the_code_of_the_page_runs_and_prints_what_the_page_says(page: Path, program: ModuleType) -> None:
    for block in blocks(page):
        if not block.can_run:
            continue
        said = io.StringIO()
        # Padded, so that a traceback names the line of the page.
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec", dont_inherit=True)

        with contextlib.redirect_stdout(said):
            exec(code, vars(program))

        if block.prints is not None:
            assert unnumbered(said.getvalue()) == unnumbered(block.prints), (
                f"{name_of(page)}, line {block.line}"
            )
    for name, function in list(vars(program).items()):
        if name.startswith("test_") and inspect.isfunction(function) and not needs_pytest(function):
            function()


def needs_pytest(test: Callable[..., object]) -> bool:
    """Tell whether a test is a coroutine or takes fixtures."""
    return inspect.iscoroutinefunction(test) or bool(inspect.signature(test).parameters)


@pytest.mark.slow
def test_the_tests_of_the_how_to_run_under_pytest(tmp_path: Path) -> None:
    """As a file of their own, with the plugin that avm brings, as a user would have them."""
    page = ROOT / "docs" / "how-to" / "test-your-agents.md"
    code = "\n".join(block.code for block in blocks(page))
    (tmp_path / "test_page.py").write_text(code, encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_page.py"],
        cwd=tmp_path,
        env={**os.environ, "HYPOTHESIS_PROFILE": "default"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{code.count('def test_')} passed" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_links_of_the_page_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]

    missing = [link for link in links if not (page.parent / link).exists()]

    assert not missing


def test_the_readme_names_the_two_commands_of_a_newcomer() -> None:
    commands = {
        match["code"].strip() for match in FENCE.finditer((ROOT / "README.md").read_text(encoding="utf-8"))
    }

    assert {"make run", "make test"} <= commands


def test_every_page_is_reached_from_the_readme() -> None:
    reached = {ROOT / "README.md"}
    waiting = list(reached)
    while waiting:
        page = waiting.pop()
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            target = (page.parent / link).resolve()
            if target.suffix == ".md" and target.is_file() and target not in reached:
                reached.add(target)
                waiting.append(target)

    assert set(PAGES) <= reached


def test_the_reference_names_what_is_exported_today() -> None:
    made = runpy.run_path(str(ROOT / "scripts" / "reference"))

    assert made["PAGE"].read_text(encoding="utf-8") == made["page"](), (
        "run .venv/bin/python scripts/reference"
    )
