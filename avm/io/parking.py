"""Parking: calls that wait for the leader of their prefix, by the prefix's key."""

from __future__ import annotations

from collections.abc import Iterable

from avm.io.call import Call


class Parking:
    """Calls by what they wait for."""

    def __init__(self) -> None:
        self._parked: dict[bytes, list[Call]] = {}

    def park(self, key: bytes, call: Call) -> None:
        """Let a call wait until a key is free."""
        call.place = "parked"
        self._parked.setdefault(key, []).append(call)

    def free(self, keys: Iterable[bytes]) -> list[Call]:
        """Return those that waited for some keys, in the order in which they are to be put back into the queue.

        Each goes back before its agent's others, so of one agent the newest is first.
        """
        freed: dict[str, list[Call]] = {}
        for key in keys:
            for call in self._parked.pop(key, ()):
                if not call.withdrawn:
                    freed.setdefault(call.agent, []).append(call)
        return [call for calls in freed.values() for call in reversed(calls)]

    def __len__(self) -> int:
        return sum(not call.withdrawn for calls in self._parked.values() for call in calls)
