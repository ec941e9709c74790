"""The command `avm`: which command is meant, and what is said of one there is not."""

from __future__ import annotations

import pytest

import avm
from avm.cli.main import main


def test_it_knows_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"avm {avm.__version__}\n"


def test_a_command_there_is_not_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["walk"]) == 2
    assert capsys.readouterr().err.startswith(
        "avm: there is no command 'walk'. `avm run MODULE:TREE` runs a tree"
    )


def test_run_goes_to_the_command_of_that_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "nonsense"]) == 2
    assert "the tree must be written MODULE:TREE" in capsys.readouterr().err


def test_without_arguments_it_takes_those_of_the_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["avm", "--version"])

    assert main() == 0
    assert capsys.readouterr().out.startswith("avm ")


def test_help_is_the_main_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--help"])

    assert caught.value.code == 0
    assert "avm run MODULE:TREE" in capsys.readouterr().out
