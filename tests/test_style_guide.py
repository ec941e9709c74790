"""The program of the style guide runs as it is written there, and a type checker knows the type of every reply.

Between the two marks stand the guide's own lines, (a) to (d); the editor and its page are what they leave to the reader.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from avm import VM, Agent, ChildSpec, Request, child, event, on, pipeline, run, supervisor, tool
from avm.io import ModelRequest, ScriptedProvider

ROOT = Path(__file__).parent.parent


@event
class Page:
    text: str


class Editor(Agent):
    @on(object)
    async def edit(self, review: Any) -> Page:
        return Page(review.verdict.upper())


# fmt: off
# begin of the guide
@event
class Review:
    verdict: str

@event
class Draft(Request[Review]):                         # ask(Draft(...)) is typed: mypy infers Review
    text: str

@tool(timeout=5)                                      # (d) a tool: a typed function; the docstring is what the model reads
async def count_words(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())

class Critic(Agent):                                  # (a) an agent
    model, tools = "claude-sonnet-4-5", [count_words]

    def __init__(self, tone: str) -> None:            # runs again at each restart; no super() to forget
        self.tone = tone

    @on(Draft)
    async def review(self, draft: Draft) -> Review:   # the return value is the reply
        return Review(await self.complete(f"Be {self.tone}. Review: {draft.text}"))

def newsroom(tone: str) -> ChildSpec:                 # (b) a tree: a value made by a function
    return supervisor("newsroom", strategy="rest_for_one", max_restarts=3, max_seconds=60, children=[
        child("critic", Critic, tone),
        child("editor", Editor, restart="transient", shutdown=10)])

async def main(drafts: Iterable[Draft]) -> None:      # (c) a pipeline; run(main, drafts) starts it
    async with VM(newsroom("kind")) as vm:
        async for page in pipeline(vm["critic"], vm["editor"], limit=32)(drafts):
            print(page.text)
# end of the guide
# fmt: on


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a machine without a key has."""
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    monkeypatch.delenv("AVM_PROVIDER", raising=False)


def test_the_guides_program_prints_a_page_for_every_draft(
    scripted: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run(main, [Draft("one"), Draft("two"), Draft("three")])

    pages = capsys.readouterr().out.splitlines()
    assert [page.split()[-1] for page in pages] == ["ONE", "TWO", "THREE"]
    assert all("BE KIND" in page for page in pages)


def test_the_guides_tree_is_a_value_that_compares_and_prints() -> None:
    assert newsroom("kind") == newsroom("kind")
    assert newsroom("kind") != newsroom("harsh")
    assert "critic" in str(newsroom("kind"))


def test_the_guides_agent_calls_its_tool(run: Any) -> None:
    def model(request: ModelRequest) -> Any:
        last = list(request.history())[-1]
        if last["role"] == "tool":
            return f"It has {last['content']} words."
        wanted = {"id": "1", "name": "count_words", "arguments": '{"text": "three little words"}'}
        return {"role": "assistant", "content": "", "tool_calls": [wanted]}

    async def body() -> str:
        async with VM(newsroom("kind"), provider=ScriptedProvider(model)) as vm:
            said: str = await vm.ask("critic", "How many?")
            return said

    assert run(body()) == "It has 3 words."


TYPED = """
async def typed(vm: VM, critic: Critic) -> None:
    reveal_type(await vm.ask("critic", Draft("a")))
    reveal_type(await vm["critic"].ask(Draft("b")))
    reveal_type(await critic.ask("critic", Draft("c")))
    reveal_type(await critic.complete("d"))
    reveal_type(newsroom("kind"))
    Draft(text=3)
    Draft("e").text = "f"
"""


@pytest.mark.slow
def test_mypy_infers_the_replies_of_the_guides_program(tmp_path: Path) -> None:
    guide = Path(__file__).read_text(encoding="utf-8").split("\n\n# fmt: on", 1)[0].replace("# fmt: off", "")
    program = tmp_path / "guide.py"
    program.write_text(guide + "\n" + TYPED, encoding="utf-8")

    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-codes", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    found = [line.split(": ", 1)[1] for line in done.stdout.splitlines()]
    assert found == [
        'note: Revealed type is "guide.Review"',
        'note: Revealed type is "guide.Review"',
        'note: Revealed type is "guide.Review"',
        'note: Revealed type is "str"',
        'note: Revealed type is "avm.supervision.spec.ChildSpec"',
        'error: Argument "text" to "Draft" has incompatible type "int"; expected "str"',
        'error: Property "text" defined in "Draft" is read-only',
    ]
