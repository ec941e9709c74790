"""The pytest plugin, in runs of pytest of its own."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

HEAD = """
import asyncio
import pytest
from avm import Actor, Agent, Request, child, event, on, supervisor
from avm.testing import Idle

@event
class Add(Request[int]):
    n: int

class Counter(Actor):
    total = 0

    @on(Add)
    def add(self, order):
        self.total += order.n
        return self.total
"""


@pytest.fixture
def outcome(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> object:
    """Runs a test file under the plugin, in this process."""
    monkeypatch.chdir(pytester.path)

    def run(code: str, *options: str) -> pytest.RunResult:
        pytester.makepyfile(HEAD + code)
        return pytester.runpytest_inprocess("-p", "avm", "-p", "no:cacheprovider", *options)

    return run


def test_the_plugin_is_an_entry_point_of_the_distribution() -> None:
    found = importlib.metadata.entry_points(group="pytest11", name="avm")

    assert [point.value for point in found] == ["avm.testing.plugin"]


def test_a_coroutine_test_runs_and_its_failure_fails(outcome) -> None:  # type: ignore[no-untyped-def]
    result = outcome("""
async def test_passes():
    await asyncio.sleep(0)

async def test_fails():
    await asyncio.sleep(0)
    assert 1 == 2
""")

    result.assert_outcomes(passed=1, failed=1)


def test_a_coroutine_test_takes_fixtures_and_parameters(outcome) -> None:  # type: ignore[no-untyped-def]
    result = outcome("""
@pytest.fixture
def two():
    return 2

@pytest.mark.parametrize("n", [1, 2])
async def test_adds(n, two):
    assert n + two > 2

class TestMethods:
    async def test_is_run(self, two):
        assert two == 2
""")

    result.assert_outcomes(passed=3)


def test_a_coroutine_under_given_is_run_for_each_example(outcome) -> None:  # type: ignore[no-untyped-def]
    result = outcome("""
from hypothesis import given, settings, strategies as st
seen = []

@given(n=st.integers())
@settings(max_examples=5, database=None)
async def test_sees(n):
    await asyncio.sleep(0)
    seen.append(n)

def test_saw():
    assert len(seen) >= 3
""")

    result.assert_outcomes(passed=2)


def test_what_another_plugin_marks_is_left_to_it(outcome) -> None:  # type: ignore[no-untyped-def]
    """anyio is installed here; pytest-asyncio is not, so its mark has nobody, and pytest says so."""
    result = outcome(
        """
@pytest.mark.anyio
async def test_theirs():
    import anyio
    await anyio.sleep(0)

@pytest.mark.asyncio
async def test_nobodys():
    pass
""",
        "-W",
        "ignore",
    )

    outcomes = result.parseoutcomes()
    assert outcomes["passed"] >= 1
    assert outcomes.get("failed", 0) + outcomes.get("skipped", 0) == 1


def test_the_vm_fixture_starts_a_vm_that_ends_with_the_test(outcome) -> None:  # type: ignore[no-untyped-def]
    result = outcome("""
kept = []

async def test_counts(vm):
    running = await vm(child("counter", Counter))
    kept.append(running)
    assert await running.ask("counter", Add(2)) == 2

def test_it_has_ended():
    with pytest.raises(Exception, match="has ended"):
        kept[0].kernel
""")

    result.assert_outcomes(passed=2)


def test_the_vm_fixture_says_where_it_belongs(outcome) -> None:  # type: ignore[no-untyped-def]
    result = outcome("""
def test_plain(vm):
    coroutine = vm(child("counter", Counter))
    try:
        coroutine.send(None)
    finally:
        coroutine.close()
""")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*the vm fixture is for coroutine tests*"])


def test_a_tree_that_gives_up_fails_the_test_with_its_own_words(outcome) -> None:  # type: ignore[no-untyped-def]
    result = outcome("""
async def test_waits(vm):
    running = await vm(supervisor("top", max_restarts=0, children=[child("counter", Counter)]))
    running.kill("counter")
    await asyncio.sleep(5)
""")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*gave up*"])


def test_a_simulation_ends_with_the_test_and_a_failure_tells_what_happened(outcome) -> None:  # type: ignore[no-untyped-def]
    result = outcome("""
def test_counts(simulation):
    sim = simulation(child("counter", Counter), seed=3)
    assert sim.ask("counter", Add(2)) == 2

def test_fails(simulation):
    sim = simulation(child("counter", Counter), seed=3)
    assert sim.ask("counter", Add(2)) == 3
""")

    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*handles Add(n=2)*", "*avm replay*"])


def test_the_seed_of_the_command_line_is_that_of_simulations_that_name_none(outcome) -> None:  # type: ignore[no-untyped-def]
    result = outcome(
        """
def test_seed(simulation):
    assert simulation(child("a", Idle)).seed == 41
    assert simulation(child("a", Idle), seed=2).seed == 2
""",
        "--avm-seed=41",
    )

    result.assert_outcomes(passed=1)


LEAKS = {
    "tasks": """
async def test_leaks(vm):
    await vm()
    keep = asyncio.get_running_loop().create_task(asyncio.sleep(3600), name="forgotten")
""",
    "timers": """
class Late(Actor):
    def starting(self):
        self.send_after(3600.0, "nobody", "too late")

def test_leaks(simulation):
    simulation(child("late", Late))
""",
    "blobs": """
kept = []

async def test_leaks(vm):
    running = await vm()
    kept.append(running.store.put(b"x" * 5000))
""",
    "actors": """
class Stuck(Actor):
    @on(str)
    async def hang(self, _):
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass

def test_leaks(simulation):
    sim = simulation(child("stuck", Stuck))
    sim.tell("stuck", "go")
""",
}


@pytest.mark.parametrize("kind", sorted(LEAKS))
def test_what_is_left_behind_fails_the_test_unless_it_is_allowed(outcome, kind: str) -> None:  # type: ignore[no-untyped-def]
    code = LEAKS[kind]
    failing = outcome(code)
    failing.assert_outcomes(failed=1)
    failing.stdout.fnmatch_lines(["*the test left behind:*"])

    allowed = code.replace("async def test", f'@pytest.mark.avm_may_leave("{kind}")\nasync def test')
    allowed = allowed.replace("\ndef test", f'\n@pytest.mark.avm_may_leave("{kind}")\ndef test')
    outcome(allowed).assert_outcomes(passed=1)


def test_the_plugin_can_be_left_out(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_plain(): pass")

    pytester.runpytest_inprocess("-p", "no:avm").assert_outcomes(passed=1)


def test_the_file_of_the_plugin_imports_nothing_heavy_by_itself() -> None:
    """Every run of pytest loads it, also where nothing of avm is tested."""
    import avm.testing.plugin as plugin

    text = Path(plugin.__file__).read_text(encoding="utf-8")
    at_import = [line for line in text.splitlines() if line.startswith(("import ", "from "))]

    assert not [line for line in at_import if "avm" in line or "hypothesis" in line]
