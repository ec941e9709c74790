"""Every example runs to its end by itself, offline, and looks as the house style says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))

SAYS = {
    "chat_with_tools": ["It is 7.", "It is 22.00 dollars.", "Wrong arguments for convert"],
    "hello_agent": ["You have said 1 things", "You have said 2 things"],
    "newsroom": ["actors", "mailboxes", "supervisors", "after a kill", "writer#", "critic#"],
    "pub_sub": [
        "'Water on Mars' went to 2",
        "'A long match' went to 1",
        "this' went to 0",
        "ada has read ['Water on Mars', 'A long match']",
        "bob has read ['Water on Mars', 'A new opera']",
        "after bob's crash it goes to 1",
        "bob has read ['An encore']",
    ],
    "rate_limits": [
        "85 queued,   0 of 60 left, 0 tried again",
        "1 tried again, paused for 16 s",
        "You said: Where is my order? After 2 s.",
        "161 answered,   0 queued",
    ],
    "shared_prefix": ["Uncached: 761,540 tokens", "Reviewer: 90 tokens", "13.3 times cheaper"],
    "streaming": [
        "0: Once upon a time",
        "28: what came from here on is void",
        "28: n ",
        "Once upon a time there was an actor with a mailbox.",
    ],
    "worker_pool": ["3 workers: [10, 10, 10]", "10 workers: [3, 3,", "a worker crashed", "still 10 workers"],
}
"""What each of them must print, in this order."""

SLOW_STEP = re.compile(r"^Executing <.* took \d+\.\d+ seconds\n", re.MULTILINE)
"""What asyncio's debug mode says of a step of more than 0.1 s: on a busy machine that is an import."""

SETTINGS = ("ANTHROPIC_API_KEY", "AVM_PROVIDER", "AVM_BASE_URL")
"""What must not choose another provider."""


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_runs_offline_without_a_warning(example: Path) -> None:
    env = {k: v for k, v in os.environ.items() if k not in SETTINGS}

    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", example],
        capture_output=True,
        text=True,
        timeout=60,
        env=env,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert not SLOW_STEP.sub("", done.stderr)
    position = 0
    for text in SAYS[example.stem]:
        assert text in done.stdout[position:], f"{text!r} is not in:\n{done.stdout[position:]}"
        position = done.stdout.index(text, position) + len(text)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_is_short_and_reads_downwards(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    program = ast.parse(text)
    functions = [n.name for n in program.body if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]

    assert 30 <= len(text.splitlines()) <= 80
    assert ast.get_docstring(program)
    assert functions[-1] == "main"


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_the_example_uses_only_what_packages_export(example: Path) -> None:
    """Module paths are ours to move: imports come from `avm` or one of its packages, never from deeper."""
    for node in ast.walk(ast.parse(example.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "avm":
            assert node.module.count(".") <= 1, f"line {node.lineno}: {node.module}"
            assert not any(alias.name.startswith("_") for alias in node.names)
