"""avm run: finding the tree, running it to its end, and the status and message that say why it ended."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from avm.cli.run import TargetError, load_tree, run_command
from tests.vm.programs import ROOT

MODULE = '''
import asyncio
from avm import Actor, child, supervisor

class Quiet(Actor):
    """Lives."""

    def stopping(self, reason):
        print(f"stopped {self.path}", flush=True)

class Brief(Actor):
    """Ends by itself."""

    def starting(self):
        self.pipe(asyncio.sleep(0.01), into=lambda _: None)
        self.idle_timeout(0.02)

    def unhandled(self, event):
        self.stop()

class Failing(Actor):
    """Fails as soon as it is up."""

    def starting(self):
        self.idle_timeout(0)

    def unhandled(self, event):
        raise RuntimeError("no coffee")

class Stillborn(Actor):
    """Never starts."""

    def starting(self):
        raise RuntimeError("no ink")

tree = supervisor("office", children=[child("clerk", Quiet), child("porter", Quiet)])

def day():
    return supervisor(
        "office",
        auto_shutdown="all_significant",
        children=[child("guest", Brief, restart="transient", significant=True)],
    )

def failing():
    return supervisor("office", max_restarts=2, children=[child("clerk", Failing)])

def stillborn():
    return supervisor("office", children=[supervisor("back", children=[child("clerk", Stillborn)])])

def staffed(clerks):
    return supervisor("office", children=[child(f"clerk-{n}", Quiet) for n in range(clerks)])

def broken():
    raise LookupError("no such office")

async def later():
    return tree

number = 7
'''


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of trees in the current folder; returns its name."""
    name = f"office_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    (tmp_path / f"needy_{name}.py").write_text("import nowhere_at_all\n")
    (tmp_path / f"crooked_{name}.py").write_text("tree = 1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


# -- the tree --------------------------------------------------------------------------------------------------


def test_a_target_is_a_tree_or_a_function_that_returns_one(office: str) -> None:
    assert load_tree(f"{office}:tree").id == "office"
    assert load_tree(f"{office}:day") == load_tree(f"{office}:day")


@pytest.mark.parametrize(
    "target, text",
    [
        ("{0}", "must be written MODULE:TREE, as in newsroom:tree, got"),
        (":tree", "must be written MODULE:TREE"),
        ("{0}:", "must be written MODULE:TREE"),
        ("no_{0}:tree", "there is no module 'no_.*' here or among the installed ones"),
        ("./{0}.py:tree", "is no name of a module; write it as in `import`, without .py"),
        ("{0}.py:tree", "without .py"),
        ("needy_{0}:tree", "needs 'nowhere_at_all', which is not installed"),
        ("crooked_{0}:tree", "could not be imported: ZeroDivisionError: division by zero"),
        ("{0}:three", "has no 'three'. Did you mean 'tree'?"),
        ("{0}:number", "must be a tree or a function that returns one, got 7"),
        ("{0}:Quiet", "must be a tree or a function that returns one, got the class Quiet"),
        ("{0}:staffed", r"needs arguments \(clerks\), and avm run has none to give"),
        ("{0}:broken", r"broken\(\) failed: LookupError: no such office"),
        ("{0}:later", "must be a plain function that returns a tree, got an async one"),
        ("{0}:print", "must return a tree|has no 'print'"),
    ],
)
def test_a_target_that_leads_to_no_tree_says_why(office: str, target: str, text: str) -> None:
    with pytest.raises(TargetError, match=text):
        load_tree(target.format(office))


def test_a_wrong_target_is_one_line_and_status_2(office: str, capsys: Any) -> None:
    assert run_command([f"{office}:three"]) == 2

    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == f"avm run: module '{office}' has no 'three'. Did you mean 'tree'?\n"


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--memory", "lots"], "memory size 'lots' is not a size"),
        (["--memory", "1KB"], "below the floor"),
        (["--duration", "0"], "must be a number of seconds above 0, got '0'"),
        (["--duration", "soon"], "must be a number of seconds above 0, got 'soon'"),
        (["--speed", "9"], "unrecognized arguments"),
    ],
)
def test_wrong_options_are_status_2_and_name_the_option(
    office: str, capsys: Any, arguments: Any, text: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command([f"{office}:tree", *arguments])

    assert ended.value.code == 2
    assert text in capsys.readouterr().err


# -- the end ---------------------------------------------------------------------------------------------------


def test_a_tree_that_ends_in_order_is_status_0(office: str, capsys: Any) -> None:
    assert run_command([f"{office}:day"]) == 0
    assert "avm run: office ended in order.\n" in capsys.readouterr().err


def test_a_duration_that_is_over_is_status_0(office: str, capsys: Any) -> None:
    assert run_command([f"{office}:tree", "--duration", "0.05"]) == 0

    said = capsys.readouterr()
    assert said.out == "stopped office/porter\nstopped office/clerk\n"
    assert said.err.endswith("avm run: stopped after 0.05 s.\n")
    assert "avm run: office is up" in said.err


def test_a_tree_that_gives_up_is_status_1_with_the_supervisors_words(office: str, capsys: Any) -> None:
    assert run_command([f"{office}:failing"]) == 1

    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("avm run: supervisor 'office' gave up: 3 restarts in")
    assert last.endswith("Last: 'clerk', RuntimeError: no coffee.")


def test_a_tree_that_does_not_start_is_status_1_with_the_path(office: str, capsys: Any) -> None:
    """S91."""
    assert run_command([f"{office}:stillborn"]) == 1

    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "avm run: office/back/clerk did not start: RuntimeError: no ink."


def test_json_status_is_a_line_of_json_a_second_and_a_final_one(office: str, capsys: Any) -> None:
    assert run_command([f"{office}:day", "--json-status"]) == 0

    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["final"] is True
    assert last["restarts"] == 0
    assert set(last) >= {"actors", "active", "waiting", "mailbox", "dead_letters", "store_bytes", "requests"}


@pytest.mark.slow
@pytest.mark.parametrize("signum, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_tree_in_order_and_the_status_says_which(
    office: str, tmp_path: Path, signum: signal.Signals, status: int
) -> None:
    """S91."""
    program = subprocess.Popen(
        [sys.executable, "-c", "import sys; from avm.cli.run import run_command; sys.exit(run_command(sys.argv[1:]))",
         f"{office}:tree"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{':'.join(sys.path)}", "PATH": ""},
    )  # fmt: skip
    assert program.stderr is not None
    first = program.stderr.readline()
    program.send_signal(signum)
    out, err = program.communicate(timeout=20)

    assert "office is up" in first
    assert out == "stopped office/porter\nstopped office/clerk\n"
    assert err == f"avm: stopped by {signum.name}.\n"
    assert program.returncode == status
