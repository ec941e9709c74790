"""Roots: the last good conversation of every agent, by name. A turn is a transaction, and this is where it commits.

A conversation is an immutable value, so a root is a reference and a commit is one store into a table. The VM hands one
`Roots` to all agents as the service "roots"; it outlives every incarnation of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

from avm.memory import Conversation


@attrs.frozen(slots=True)
class RootsStatistics:
    """How many roots are held and how many commits there have been."""

    roots: int
    commits: int


class Roots:
    """Committed conversations by name; an agent's name is its path unless it chooses another."""

    def __init__(self) -> None:
        self._roots: dict[str, Conversation] = {}
        self._commits = 0

    def get(self, name: str) -> Conversation | None:
        """Return the last committed conversation of a name, None if there is none."""
        return self._roots.get(name)

    def commit(self, name: str, conversation: Conversation) -> None:
        """Make a conversation the one a restart resumes from."""
        self._roots[name] = conversation
        self._commits += 1

    def forget(self, name: str) -> Conversation | None:
        """Let go of a root, so that its content can be freed; return it."""
        return self._roots.pop(name, None)

    def statistics(self) -> RootsStatistics:
        """Count roots and commits."""
        return RootsStatistics(len(self._roots), self._commits)

    def __iter__(self) -> Iterator[str]:
        return iter(self._roots)

    def __contains__(self, name: object) -> bool:
        return name in self._roots

    def __len__(self) -> int:
        return len(self._roots)
