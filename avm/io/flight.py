"""Flights: equal calls under way, each made once for all who wait for it.

    join(key, 7)     None: 7 is the first, so it is made, and the flight has its number
    join(key, 8)     7: it waits with the others
    leave(7)         (7, False): the call goes on, for 8
    land(7)          [8]: who is to be answered

The number of a flight stays that of its first call, also when that one has left: it is the one the call is known by
where it is made. All of this costs the same however many wait.
"""

from __future__ import annotations

from collections.abc import Hashable

import attrs


@attrs.frozen(slots=True)
class FlightStatistics:
    """How many flights there are, how many calls wait for them, and how many ever joined one that was under way."""

    flights: int
    waiting: int
    joined: int


@attrs.define(slots=True, eq=False)
class _Flight:
    leader: int
    key: Hashable
    # In the order in which they came.
    waiting: dict[int, None]


class Flights:
    """Which calls wait for which. Calls are numbers of the caller's own, never used twice."""

    __slots__ = ("_by_key", "_by_leader", "_joined", "_of")

    def __init__(self) -> None:
        self._by_key: dict[Hashable, _Flight] = {}
        self._by_leader: dict[int, _Flight] = {}
        # The flight each call waits for.
        self._of: dict[int, _Flight] = {}
        self._joined = 0

    def join(self, key: Hashable, serial: int) -> int | None:
        """Let a call wait for its reply with those that are equal to it.

        Args:
            key: equal for calls that may be one: a digest, and what else must be the same.

        Returns:
            The flight it has joined; None if it is the first, and is to be made.

        Raises:
            ValueError: it waits already.
        """
        if serial in self._of:
            raise ValueError(
                f"call {serial} waits for flight {self._of[serial].leader} already; it joins once."
            )
        flight = self._by_key.get(key)
        if flight is None:
            flight = _Flight(serial, key, {serial: None})
            self._by_key[key] = self._by_leader[serial] = self._of[serial] = flight
            return None
        flight.waiting[serial] = None
        self._of[serial] = flight
        self._joined += 1
        return flight.leader

    def leave(self, serial: int) -> tuple[int, bool]:
        """Let a call give up waiting.

        Returns:
            Its flight, and whether it was the last that waited: then the flight is over, and the call may be stopped.
            A call that has joined none is alone in its own.
        """
        flight = self._of.pop(serial, None)
        if flight is None:
            return serial, True
        del flight.waiting[serial]
        if flight.waiting:
            return flight.leader, False
        self._end(flight)
        return flight.leader, True

    def land(self, leader: int) -> list[int]:
        """End a flight.

        Returns:
            All who wait for it, in the order in which they came; none if there is no such flight, or all have left.
        """
        flight = self._by_leader.get(leader)
        if flight is None:
            return []
        self._end(flight)
        for serial in flight.waiting:
            del self._of[serial]
        return list(flight.waiting)

    def __contains__(self, serial: object) -> bool:
        """Tell whether a call waits for a flight."""
        return serial in self._of

    def __len__(self) -> int:
        return len(self._by_leader)

    def statistics(self) -> FlightStatistics:
        """Count flights and who waits for them."""
        return FlightStatistics(len(self._by_leader), len(self._of), self._joined)

    def _end(self, flight: _Flight) -> None:
        del self._by_key[flight.key]
        del self._by_leader[flight.leader]
