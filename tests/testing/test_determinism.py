"""The same seed gives the same trace, byte for byte, in any process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from avm import Actor, child, event, on
from avm.testing import simulate
from avm.testing.trace import reason, stable

ROOT = Path(__file__).resolve().parents[2]


def trace_of(seed: int, hash_seed: str) -> bytes:
    """Run the program in a process of its own and return its trace."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("programs.py")), str(seed)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=60,
        check=True,
    )
    return done.stdout


@pytest.mark.slow
def test_two_processes_give_equal_traces_whatever_their_hash_seeds() -> None:
    first, second, third = trace_of(5, "0"), trace_of(5, "1"), trace_of(5, "random")

    assert first == second == third
    assert len(first.splitlines()) > 300
    assert b"FAULT" in first


@pytest.mark.slow
def test_another_seed_gives_another_trace() -> None:
    assert trace_of(5, "0") != trace_of(6, "0")


@event
class Sets:
    """Something whose repr is different in every process."""

    words: frozenset[str]


class Listener(Actor):
    """Takes sets."""

    @on(Sets)
    def hear(self, sets: Sets) -> None:
        pass


def test_the_trace_shows_sets_in_order_and_no_addresses() -> None:
    with simulate(child("listener", Listener)) as sim:
        sim.tell("listener", Sets(frozenset({"b", "c", "a"})))

    assert "Sets(words=frozenset('a', 'b', 'c'))" in sim.trace.text()
    assert " at 0x" not in sim.trace.text()


class Odd:
    """Its repr fails."""

    def __repr__(self) -> str:
        raise ValueError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"b": 1, "a": [2.5, None]}, "{'b': 1, 'a': (2.5, None)}"),
        ({3, 1, 2}, "set(1, 2, 3)"),
        (object(), "<object object>"),
        (Listener, "Listener"),
        (Odd(), "<Odd: its repr failed with ValueError>"),
        (ValueError("no"), "ValueError: no"),
        ([[[[[1]]]]], "((((...))))"),
    ],
)
def test_a_value_is_shown_the_same_in_every_process(value: object, text: str) -> None:
    assert stable(value) == text


def test_a_reason_is_shown_in_one_bounded_line() -> None:
    assert len(reason(RuntimeError("x" * 1000))) < 300
    assert "\n" not in reason(RuntimeError("a\nb"))
