"""Failure files, recorded choices, and simulations that were stopped in the middle of something."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from avm.errors import ReplayDiverged, ReplayStopped, SimulationError
from avm.testing import Recorded, Seeded, simulate
from avm.testing.replay import FailureFile
from tests.testing.shop import CarefulClerk, CarelessClerk, Get, Sell, shop


def test_a_failure_file_holds_what_was_decided(tmp_path: Path) -> None:
    with pytest.raises(AssertionError), simulate(shop(CarelessClerk), seed=2, failures=tmp_path) as sim:
        for n in range(2):
            sim.send(f"clerk{n}", Sell())
        sim.settle()
        taken = tuple(sim.schedule.taken)
        assert sim.ask("shelf", Get()) == 99
    (path,) = tmp_path.iterdir()

    file = FailureFile.read(path)

    assert file.choices[: len(taken)] == taken
    assert file.test.endswith("test_a_failure_file_holds_what_was_decided")
    assert file.error.startswith("AssertionError")
    assert json.loads(path.read_text())["version"] == 1


def test_a_folder_that_cannot_be_written_hides_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with (
        pytest.raises(AssertionError, match="mine") as caught,
        simulate(shop(CarefulClerk), failures=tmp_path / "file" / "below"),
    ):
        raise AssertionError("mine")

    assert "no failure file could be written" in caught.value.__notes__[-1]


def test_recorded_choices_give_the_recorded_run_and_say_when_they_cannot() -> None:
    def run(choices: Recorded | Seeded) -> tuple[str, Recorded]:
        with simulate(shop(CarefulClerk, clerks=4), choices=choices) as sim:
            for n in range(4):
                sim.send(f"clerk{n}", Sell())
            sim.settle()
        return sim.trace.text(), Recorded(sim.schedule.taken, sim.schedule.sizes)

    first, recorded = run(Seeded(8))
    second, _ = run(recorded)

    assert first == second
    with pytest.raises(ReplayDiverged, match="decision 0 was one of 9"):
        Recorded([1], [9]).choose(4)


def test_a_run_that_diverges_fails_as_such() -> None:
    with pytest.raises(ReplayDiverged), simulate(shop(CarefulClerk), choices=Recorded([0], [99])) as sim:
        for n in range(2):
            sim.send(f"clerk{n}", Sell())
        sim.settle()


def test_a_halted_simulation_can_be_looked_at_and_only_end() -> None:
    sim = simulate(shop(CarefulClerk))
    with sim:
        sim.schedule.stop_at = len(sim.schedule.taken)
        for n in range(2):
            sim.send(f"clerk{n}", Sell())
        with pytest.raises(ReplayStopped, match="stopped before decision"):
            sim.settle()

        assert sim.statuses() == {"shelf": "idle", "clerk0": "ready", "clerk1": "ready"}
        with pytest.raises(SimulationError, match="cannot go on"):
            sim.settle()
    assert sim.statuses() == {}
    assert sim.complaints == []
