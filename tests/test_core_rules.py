"""Every rule of the core, on which everything else stands, is cited by a test; `scripts/rules` prints the counts."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "rules"


@pytest.mark.slow
def test_every_core_rule_has_a_test(capsys: pytest.CaptureFixture[str]) -> None:
    main = runpy.run_path(str(SCRIPT))["main"]

    assert main(["--core"]) == 0, capsys.readouterr().err


def test_spans_of_rules_are_counted_whole() -> None:
    rules = runpy.run_path(str(SCRIPT))["rules"]

    assert rules("s63_to_s65 and S1-S3, but not A66 or S1000") == {63, 64, 65, 1, 2, 3}
