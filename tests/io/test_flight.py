"""Equal calls under way are one, and end when the last who waits has left."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from avm.io.flight import Flights, FlightStatistics
from avm.memory import Digest

ONE, OTHER = Digest.of("one"), Digest.of("other")


def test_the_first_of_equal_calls_is_made_and_the_others_wait_for_it() -> None:
    flights = Flights()

    assert flights.join(ONE, 7) is None
    assert flights.join(ONE, 8) == 7
    assert flights.join(OTHER, 9) is None
    assert flights.join(ONE, 10) == 7
    assert flights.land(7) == [7, 8, 10]
    assert flights.land(9) == [9]


def test_a_call_that_comes_after_the_landing_is_the_first_of_a_new_flight() -> None:
    flights = Flights()
    flights.join(ONE, 7)
    flights.land(7)

    assert flights.join(ONE, 8) is None
    assert flights.land(7) == []


def test_a_flight_goes_on_when_its_first_call_leaves() -> None:
    flights = Flights()
    flights.join(ONE, 7)
    flights.join(ONE, 8)

    assert flights.leave(7) == (7, False)
    assert flights.join(ONE, 9) == 7
    assert flights.land(7) == [8, 9]


def test_a_flight_is_over_when_the_last_has_left() -> None:
    flights = Flights()
    flights.join(ONE, 7)
    flights.join(ONE, 8)

    assert flights.leave(7) == (7, False)
    assert flights.leave(8) == (7, True)
    assert flights.land(7) == []
    assert flights.join(ONE, 9) is None


def test_a_call_in_no_flight_is_alone() -> None:
    flights = Flights()

    assert 7 not in flights
    assert flights.leave(7) == (7, True)
    assert flights.land(7) == []


def test_a_call_cannot_join_twice() -> None:
    flights = Flights()
    flights.join(ONE, 7)

    with pytest.raises(ValueError, match="call 7 waits for flight 7 already"):
        flights.join(OTHER, 7)


class FlightsAgainstAModel(RuleBasedStateMachine):
    """The model: who waits, by flight and by digest."""

    def __init__(self) -> None:
        super().__init__()
        self.flights = Flights()
        self.waiting: dict[int, list[int]] = {}
        self.flying: dict[Digest, int] = {}
        self.serial = 0

    @rule(digest=st.sampled_from([ONE, OTHER]))
    def join(self, digest: Digest) -> None:
        self.serial += 1
        leader = self.flights.join(digest, self.serial)
        assert leader == self.flying.get(digest)
        if leader is None:
            leader = self.flying[digest] = self.serial
        self.waiting.setdefault(leader, []).append(self.serial)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        leader = data.draw(st.sampled_from(sorted(self.waiting)))
        serial = data.draw(st.sampled_from(self.waiting[leader]))
        self.waiting[leader].remove(serial)
        assert self.flights.leave(serial) == (leader, not self.waiting[leader])
        if not self.waiting[leader]:
            self.end(leader)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def land(self, data: st.DataObject) -> None:
        leader = data.draw(st.sampled_from(sorted(self.waiting)))
        assert self.flights.land(leader) == self.waiting[leader]
        self.end(leader)

    def end(self, leader: int) -> None:
        del self.waiting[leader]
        self.flying = {digest: each for digest, each in self.flying.items() if each != leader}

    @invariant()
    def counts_agree(self) -> None:
        found = self.flights.statistics()
        waiting = [serial for each in self.waiting.values() for serial in each]
        assert found == FlightStatistics(len(self.waiting), len(waiting), found.joined)
        assert all(serial in self.flights for serial in waiting)
        assert len(self.flights) == len(self.waiting)


TestFlights = pytest.mark.slow(FlightsAgainstAModel.TestCase)
