"""What a home comes through, in a few rounds; `benchmarks/faults.py --rounds 200` does what counts."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "benchmarks" / "faults.py"
NEEDS_LMDB = pytest.mark.skipif(importlib.util.find_spec("lmdb") is None, reason="no lmdb")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("cold", ["sqlite", pytest.param("lmdb", marks=NEEDS_LMDB)])
def test_a_home_comes_through_all_faults(cold: str, data_dir: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--cold", cold, "--data", data_dir],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["measure"] for line in lines if line["met"] is False] == []
    assert done.returncode == 0
    assert {line["measure"].split(":")[0] for line in lines} == {
        "kill -9",
        "disk full",
        "read-only",
        "damaged",
        "in use",
        "too new",
    }
    figures = {line["measure"]: line["value"] for line in lines}
    assert figures["kill -9: acknowledged commits"] > 0
    assert figures["disk full: commits refused"] > 0
