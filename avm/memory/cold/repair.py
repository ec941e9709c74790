"""Repair: what is wrong in a home, mended where that loses nothing."""

from __future__ import annotations

from collections import Counter
from operator import add

import attrs

from avm.memory.cold.coldstore import Change, ColdStore
from avm.memory.cold.verify import Problem, VerifyReport

CHANGES = 500
"""Changes in one commit of a repair."""

COMMIT_BYTES = 1 << 20
"""Bytes of damaged records from which on a commit is made: they may be large, and each of them is in it."""


@attrs.frozen(slots=True)
class Repair:
    """What a repair did; those of several are added up."""

    quarantined: int = 0
    edges_deleted: int = 0
    edges_added: int = 0
    segments_deleted: int = 0

    @property
    def changes(self) -> int:
        """How much it did in all."""
        return sum(attrs.astuple(self))

    def __add__(self, other: Repair) -> Repair:
        return Repair(*map(add, attrs.astuple(self), attrs.astuple(other)))


def repair(cold: ColdStore, report: VerifyReport) -> Repair:
    """Mend what can be mended without losing anything; nobody else may write meanwhile.

    Damaged records go to the quarantine, so that their content can be written anew. Edges that no conversation needs
    are deleted, missing ones added, and segments that nobody can read are deleted.

    Raises:
        ColdStoreError: it cannot be written; what was mended before stays so.
    """
    counts: Counter[str] = Counter()
    changes: list[Change] = []
    for problem in report.problems:
        mended = _mend(cold, problem)
        changes.extend(mended)
        counts[problem.kind] += bool(mended)
        if len(changes) >= CHANGES or sum(len(value) for _, _, value in changes if value) > COMMIT_BYTES:
            cold.commit(changes)
            changes = []
    cold.commit(changes)
    return Repair(counts["record"], counts["stray edge"], counts["missing edge"], counts["stray segment"])


def _mend(cold: ColdStore, problem: Problem) -> list[Change]:
    key = problem.key
    match problem.kind:
        case "stray edge":
            return [("edge", key, None)]
        case "missing edge":
            return [("edge", key, b"")]
        case "stray segment":
            return [("segment", key, None)]
        case "record" if (value := cold.read("record", [key])[0]) is not None:
            return [("quarantine", key, value), ("record", key, None)]
    return []
