"""Laws of links and monitors: who ends with whom, and who hears of it (S36-S49)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avm.actors import Kill, Killed, Normal
from avm.testing.invariants import breaches
from avm.testing.strategies import schedules
from tests.laws.cast import REASONS, Do, lines, pid_of, play, stage

IDS = ("a", "b", "c", "d", "e")
pairs = st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from(IDS)), max_size=8)
traps = st.lists(st.booleans(), min_size=5, max_size=5)


def do(sim: Any, id: str, *steps: Any) -> None:
    sim.tell(f"stage/{id}", Do(tuple(steps)))


@pytest.mark.parametrize("itself", [True, False])
@pytest.mark.parametrize("traps", [True, False])
@pytest.mark.parametrize("reason", sorted(REASONS))
@settings(max_examples=5)
@given(schedule=schedules())
def test_s36_what_an_exit_signal_does(reason: str, traps: bool, itself: bool, schedule: Any) -> None:
    """The table of OTP's exit/2, for a signal of someone else's and for one's own."""
    log: list[tuple[Any, ...]] = []
    with play(stage(log, IDS, [traps]), schedule) as sim:
        pid = pid_of(sim, "stage/a")
        do(sim, "a" if itself else "b", ("exit", "stage/a", reason))
        sim.run_until_idle()
        lives, ended_with = pid.is_alive(), pid.cell.reason

    value = REASONS[reason]
    if isinstance(value, Kill):
        assert ended_with == Killed()
    elif traps:
        assert lives
        assert lines(log, "a", "exit")[0][1] == value
    elif isinstance(value, Normal) and not itself:
        assert lives
    else:
        assert ended_with == value
        assert lines(log, "a", "stopping") == [(value,)]


def reached(links: set[frozenset[str]], victim: str, trapping: set[str]) -> tuple[set[str], dict[str, int]]:
    """Who ends with the victim, and how many Exits each of those that trap gets."""
    ended, waiting = {victim}, [victim]
    heard: dict[str, int] = {}
    while waiting:
        one = waiting.pop(0)
        for pair in links:
            if one in pair and len(pair) == 2:
                (peer,) = pair - {one}
                if peer in trapping:
                    heard[peer] = heard.get(peer, 0) + 1
                elif peer not in ended:
                    ended.add(peer)
                    waiting.append(peer)
    return ended, heard


@given(
    linked=pairs,
    unlinked=pairs,
    traps=traps,
    victim=st.sampled_from(IDS),
    reason=st.sampled_from(("oops", "kill", "shutdown", "normal")),
    schedule=schedules(),
)
def test_s36_to_s45_an_end_spreads_over_links_and_no_further(
    linked: list[Any], unlinked: list[Any], traps: list[bool], victim: str, reason: str, schedule: Any
) -> None:
    log: list[tuple[Any, ...]] = []
    with play(stage(log, IDS, traps), schedule) as sim:
        links: set[frozenset[str]] = set()
        for one, other in linked:
            do(sim, one, ("link", f"stage/{other}"))
            links.add(frozenset((one, other)))
        for one, other in unlinked:
            do(sim, one, ("unlink", f"stage/{other}"))
            links.discard(frozenset((one, other)))
        pids = {id: pid_of(sim, f"stage/{id}") for id in IDS}
        if reason == "kill":
            sim.kill(pids[victim])
        else:
            do(sim, victim, ("stop", reason))
        sim.run_until_idle()
        dead = {id for id in IDS if not pids[id].is_alive()}
        reasons = {pids[id].cell.reason for id in dead}
        found = breaches(sim.kernel)
        log = list(log)

    trapping = {id for id, trap in zip(IDS, traps, strict=True) if trap} - {victim}
    ended, heard = reached(links, victim, trapping)
    if reason == "normal":
        ended = {victim}
        heard = {id: 1 for id in trapping if frozenset((id, victim)) in links}
    value = Killed() if reason == "kill" else REASONS[reason]
    assert dead == ended
    assert reasons == {value}
    assert {id: len(lines(log, id, "exit")) for id in trapping} == {id: heard.get(id, 0) for id in trapping}
    assert all(line[1] == value for id in trapping for line in lines(log, id, "exit"))
    assert found == []


@given(
    watched=pairs,
    given_up=pairs,
    victims=st.lists(st.sampled_from(IDS), max_size=3, unique=True),
    kills=st.booleans(),
    schedule=schedules(),
)
def test_s46_to_s48_one_down_for_each_watch_that_is_left(
    watched: list[Any], given_up: list[Any], victims: list[str], kills: bool, schedule: Any
) -> None:
    log: list[tuple[Any, ...]] = []
    with play(stage(log, IDS), schedule) as sim:
        watches: list[tuple[str, str]] = []
        for one, other in watched:
            do(sim, one, ("monitor", f"stage/{other}"))
            if one != other:
                watches.append((one, other))
        for one, other in given_up:
            do(sim, one, ("demonitor", f"stage/{other}"))
            if (one, other) in watches:
                watches.remove((one, other))
        living = set(IDS)
        expected: list[tuple[str, str, object]] = []
        for victim in victims:
            if kills:
                sim.kill(f"stage/{victim}")
            else:
                do(sim, victim, ("stop", "oops"))
            living.discard(victim)
            expected += [
                (one, victim, Killed() if kills else "oops") for one, other in watches if other == victim
            ]
            watches = [(one, other) for one, other in watches if one != victim]
            expected = [line for line in expected if line[0] in living or line[1] != victim]
        found = breaches(sim.kernel)
        log = list(log)

    downs = [(id, *line) for id in IDS for line in lines(log, id, "down")]
    assert sorted(map(str, downs)) == sorted(map(str, expected))
    assert found == []


@given(
    verb=st.sampled_from(("link", "monitor")),
    by=st.sampled_from(("path", "pid", "nobody")),
    traps=st.booleans(),
    schedule=schedules(),
)
def test_s42_s47_to_link_with_or_watch_one_that_is_dead_tells_at_once(
    verb: str, by: str, traps: bool, schedule: Any
) -> None:
    log: list[tuple[Any, ...]] = []
    with play(stage(log, IDS, [traps]), schedule) as sim:
        a, b = pid_of(sim, "stage/a"), pid_of(sim, "stage/b")
        sim.kill(b)
        do(sim, "a", (verb, {"path": "stage/b", "pid": b, "nobody": "no such name"}[by]))
        lives, reason = a.is_alive(), a.cell.reason

    if verb == "monitor":
        assert [type(line[1]).__name__ for line in lines(log, "a", "down")] == ["NoProc"]
        assert lives
    elif traps:
        assert [type(line[1]).__name__ for line in lines(log, "a", "exit")] == ["NoProc"]
        assert lives
    else:
        assert type(reason).__name__ == "NoProc"


@given(schedule=schedules(), again=st.integers(1, 3))
def test_s49_a_watch_of_a_name_is_of_who_holds_it_now(schedule: Any, again: int) -> None:
    log: list[tuple[Any, ...]] = []
    with play(stage(log, IDS), schedule) as sim:
        do(sim, "a", ("register", "name"))
        do(sim, "b", *[("monitor", "name")] * again)
        sim.kill("stage/a")
        do(sim, "c", ("register", "name"))
        sim.kill("stage/c")

    assert lines(log, "b", "down") == [("a", Killed())] * again
