"""The planted faults of `scripts/mutants`: that each can be planted, and that some of them are found."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.laws.planted import PLANTED, Planted

ROOT = Path(__file__).resolve().parent.parent.parent


def test_there_are_enough_of_them_and_no_two_of_one_name() -> None:
    names = Counter(fault.name for fault in PLANTED)

    assert len(PLANTED) >= 30
    assert set(names.values()) == {1}


@pytest.mark.parametrize("fault", PLANTED, ids=lambda fault: fault.name)
def test_the_fault_can_be_planted(fault: Planted) -> None:
    """Its source stands once in its file, what comes in its place is Python, and its laws are there."""
    source = (ROOT / "avm" / fault.path).read_text(encoding="utf-8")

    assert source.count(fault.old) == 1
    compile(source.replace(fault.old, fault.new), fault.path, "exec")
    assert (ROOT / "tests" / "laws" / f"test_{fault.law}.py").is_file()


@pytest.mark.slow
def test_a_sample_of_the_planted_faults_is_found() -> None:
    """All of them take a minute or two: `scripts/mutants`."""
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "mutants", "--sample", "4", "--jobs", "1", "--trust"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "found 4 of 4 planted faults (100 %)" in done.stdout
