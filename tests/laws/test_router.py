"""Laws of addresses: names, groups, topics and strategies over them (S78-S85)."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avm.actors import Actor, Request, event, on
from avm.errors import NameTaken, NotJoined
from avm.router import broadcast, by_key, least_loaded, round_robin
from avm.supervision import child, supervisor
from avm.testing.invariants import breaches
from avm.testing.simulate import Simulation
from avm.testing.strategies import schedules
from tests.laws.cast import Note, play

IDS = ("a", "b", "c")


@event(tag="laws.Act")
class Act(Request[str]):
    """Do something with names or groups; the reply says how it went."""

    verb: str
    what: str


class Member(Actor):
    """Joins, leaves and takes names as it is told, and writes down what it hears."""

    def __init__(self, log: list[tuple[str, int]]) -> None:
        self.log = log

    @on(Act)
    def act(self, order: Act) -> str:
        try:
            getattr(self, order.verb)(order.what)
        except (NameTaken, NotJoined) as error:
            return type(error).__name__
        return "ok"

    @on(Note)
    def note(self, note: Note) -> int:
        self.log.append((self.ref.id, note.n))
        return note.n


def troupe(log: list[tuple[str, int]], *, restart: Any = "temporary") -> Any:
    members = [child(id, Member, log, restart=restart) for id in IDS]
    return supervisor("troupe", max_restarts=100, children=members)


steps = st.lists(
    st.tuples(
        st.sampled_from(("join", "join", "leave", "register", "register", "kill", "publish", "tell")),
        st.sampled_from(IDS),
        st.sampled_from(("red", "blue")),
    ),
    max_size=20,
)


@given(steps=steps, schedule=schedules(), restarts=st.booleans())
def test_s78_to_s83_names_have_one_holder_and_groups_their_members(
    steps: list[Any], schedule: Any, restarts: bool
) -> None:
    log: list[tuple[str, int]] = []
    names: dict[str, str] = {}
    groups: Counter[tuple[str, str]] = Counter()
    dead: set[str] = set()
    with play(troupe(log, restart="permanent" if restarts else "temporary"), schedule) as sim:
        for number, (verb, who, what) in enumerate(steps):
            log.clear()
            expected: Counter[str] = Counter()
            if verb == "publish":
                assert sim.kernel.publish(None, what, Note(number)) == sum(
                    n for (group, _), n in groups.items() if group == what
                )
                sim.settle()
                expected = Counter({id: n for (group, id), n in groups.items() if group == what and n})
            elif verb == "tell":
                sim.tell(what, Note(number))
                expected = Counter([names[what]] if what in names else [])
            elif who in dead:
                continue
            elif verb == "kill":
                sim.kill(f"troupe/{who}")
                dead |= set() if restarts else {who}
                names = {name: holder for name, holder in names.items() if holder != who}
                groups = Counter({key: n for key, n in groups.items() if key[1] != who})
            else:
                answer = sim.ask(f"troupe/{who}", Act(verb, what))
                if verb == "join":
                    groups[what, who] += 1
                elif verb == "leave":
                    assert answer == ("ok" if groups[what, who] else "NotJoined")
                    groups[what, who] -= answer == "ok"
                else:
                    assert answer == ("ok" if names.setdefault(what, who) == who else "NameTaken")
            assert Counter(id for id, _ in log) == expected
            for name in ("red", "blue"):
                found = sim.kernel.whereis(name)
                assert (found.id if found is not None else None) == names.get(name)
                members = Counter(cell.id_text for cell in sim.kernel.groups.members(name))
                assert members == Counter({id: n for (group, id), n in groups.items() if group == name and n})
            assert breaches(sim.kernel) == []


@pytest.mark.parametrize("gone", [None, "a", "b"])
@pytest.mark.parametrize("members", [1, 2, 3])
@settings(max_examples=10)
@given(keys=st.lists(st.integers(0, 50), min_size=4, max_size=20, unique=True), schedule=schedules())
def test_s85_equal_keys_go_to_the_same_member(
    keys: list[int], members: int, gone: Any, schedule: Any
) -> None:
    """When one leaves, the keys of the others stay where they were."""
    log: list[tuple[str, int]] = []
    with play(troupe(log), schedule) as sim:
        for id in IDS[:members]:
            sim.ask(f"troupe/{id}", Act("join", "red"))
        to = by_key("red", lambda note: note.n)
        before = _owners(sim, to, keys, log)
        if gone in IDS[:members]:
            sim.kill(f"troupe/{gone}")
        after = _owners(sim, to, keys, log)

    assert set(after) == (set(keys) if set(IDS[:members]) - {gone} else set())
    assert all(after[key] == before[key] for key in after if before[key] != gone)


def _owners(sim: Simulation, to: Any, keys: list[int], log: list[tuple[str, int]]) -> dict[int, str]:
    log.clear()
    for key in keys:
        sim.tell(to, Note(key))
    owners: dict[int, str] = {}
    for id, key in log:
        assert owners.setdefault(key, id) == id
    return owners


@given(told=st.integers(0, 12), members=st.integers(0, 3), schedule=schedules())
def test_round_robin_and_least_loaded_share_evenly_and_a_broadcast_reaches_all(
    told: int, members: int, schedule: Any
) -> None:
    log: list[tuple[str, int]] = []
    with play(troupe(log), schedule) as sim:
        for id in IDS[:members]:
            sim.ask(f"troupe/{id}", Act("join", "red"))
        letters = sim.kernel.dead_letters.total()
        for make in (round_robin, least_loaded):
            log.clear()
            to = make("red")
            for n in range(told):
                sim.kernel.tell(to, Note(n))
            sim.run_until_idle()
            counts = Counter(id for id, _ in log)
            assert counts.total() == (told if members else 0)
            assert (
                not members
                or max(counts.values(), default=0) - min((counts[id] for id in IDS[:members]), default=0) <= 1
            )
        log.clear()
        for n in range(told):
            sim.kernel.tell(broadcast("red"), Note(n))
        sim.run_until_idle()
        lost = sim.kernel.dead_letters.total() - letters

    for id in IDS[:members]:
        assert [n for who, n in log if who == id] == list(range(told))
    assert lost == (0 if members else 3 * told)


@given(joins=st.lists(st.sampled_from(IDS), max_size=6), kills=st.booleans(), schedule=schedules())
def test_s84_who_watches_a_group_hears_of_every_change_once(
    joins: list[str], kills: bool, schedule: Any
) -> None:
    log: list[tuple[str, int]] = []
    changes: list[tuple[str, bool]] = []
    with play(troupe(log), schedule) as sim:
        first = joins[: len(joins) // 2]
        for id in first:
            sim.ask(f"troupe/{id}", Act("join", "red"))
        number, members = sim.kernel.groups.watch("red", lambda c: changes.append((c.cell.id_text, c.joined)))
        for id in joins[len(joins) // 2 :]:
            sim.ask(f"troupe/{id}", Act("join", "red"))
        if kills:
            sim.kill("troupe/a")
        sim.kernel.groups.unwatch("red", number)
        sim.ask("troupe/b", Act("join", "red"))

    assert [cell.id_text for cell in members] == first
    expected = [(id, True) for id in joins[len(joins) // 2 :]] + [("a", False)] * (
        joins.count("a") if kills else 0
    )
    assert changes == expected
