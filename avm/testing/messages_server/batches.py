"""Message batches: requests taken at once, answered later, in any order, at half the price.

A batch is worked off when somebody looks at it after its time has come, so no timer runs and a clock of a test's own
works. Its requests go through the prompt cache one after another, the best case of a real batch.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, Literal

import attrs
import msgspec

from avm.testing.messages_server.buckets import stamp
from avm.testing.messages_server.problem import ProblemError, invalid

MAX_REQUESTS = 100_000
DAY = 86_400.0
SECONDS = 1.0
"""How long a batch takes unless told otherwise."""

Outcome = Literal["errored", "expired", "canceled"]
Outcomes = Callable[[str], Outcome | None]
"""Called with the id of each request of a batch; says what becomes of it in place of a reply."""

Process = Callable[[bytes], dict[str, Any]]
"""Answers the parameters of one request with the API's message; raises ProblemError."""


class _Entry(msgspec.Struct):
    custom_id: str
    params: msgspec.Raw


class _Create(msgspec.Struct):
    requests: list[_Entry]


_create = msgspec.json.Decoder(_Create)


@attrs.define(slots=True)
class _Batch:
    id: str
    created: float
    entries: list[_Entry]
    cancelled: float | None = None
    ended: float | None = None
    results: list[bytes] = attrs.field(factory=list)
    counts: dict[str, int] = attrs.field(factory=dict)


class Batches:
    """All batches of a server, for as long as it lives.

    Args:
        process: answers one request.
        seconds: how long a batch takes.
        outcomes: see `Outcomes`.
        wall: seconds since the epoch for a time of the server's clock.
        base_url: where the server is, when asked.
        seed: of the order of results.
    """

    def __init__(
        self,
        process: Process,
        *,
        seconds: float,
        outcomes: Outcomes | None,
        wall: Callable[[float], float],
        base_url: Callable[[], str],
        seed: int,
    ) -> None:
        self._process = process
        self._seconds = seconds
        self._outcomes = outcomes
        self._wall = wall
        self._base_url = base_url
        self._random = Random(seed)
        self._batches: dict[str, _Batch] = {}

    def create(self, raw: bytes, now: float) -> dict[str, Any]:
        """Take a batch; errors as the API's."""
        try:
            entries = _create.decode(raw).requests
        except msgspec.DecodeError as error:
            raise invalid(f"requests: {error}") from None
        if not 1 <= len(entries) <= MAX_REQUESTS:
            raise invalid(f"requests: must have 1 to {MAX_REQUESTS} items, has {len(entries)}")
        if len({entry.custom_id for entry in entries}) != len(entries):
            raise invalid("requests: custom_id must be unique within a batch")
        batch = _Batch(f"msgbatch_{len(self._batches) + 1:012d}", now, entries)
        self._batches[batch.id] = batch
        return self._describe(batch)

    def retrieve(self, id: str, now: float) -> dict[str, Any]:
        """Return how far a batch is."""
        return self._describe(self._find(id, now))

    def list(self, now: float) -> dict[str, Any]:
        """Return all batches, newest first."""
        found = [self.retrieve(id, now) for id in reversed(self._batches)]
        ids = [batch["id"] for batch in found] or [None]
        return {"data": found, "has_more": False, "first_id": ids[0], "last_id": ids[-1]}

    def cancel(self, id: str, now: float) -> dict[str, Any]:
        """Stop a batch; the next look finds that it has ended."""
        batch = self._find(id, now)
        if batch.ended is not None:
            raise invalid(f"Batch {id} cannot be canceled because it has ended.")
        batch.cancelled = now
        return self._describe(batch)

    def results(self, id: str, now: float) -> bytes:
        """Return the results of a batch that has ended, one line of JSON each."""
        batch = self._find(id, now)
        if batch.ended is None:
            raise ProblemError("not_found_error", f"Batch {id} has no results: it has not ended yet.")
        return b"".join(batch.results)

    def settle(self, now: float) -> None:
        """Work off all batches whose time has come."""
        for id in self._batches:
            self._find(id, now)

    def _find(self, id: str, now: float) -> _Batch:
        batch = self._batches.get(id)
        if batch is None:
            raise ProblemError("not_found_error", f"Batch not found: {id}")
        if batch.ended is None and (batch.cancelled is not None or now >= batch.created + self._seconds):
            self._work_off(batch, now)
        return batch

    def _work_off(self, batch: _Batch, now: float) -> None:
        batch.ended = now
        for entry in batch.entries:
            result = self._result(entry, batch.cancelled is not None)
            batch.counts[result["type"]] = batch.counts.get(result["type"], 0) + 1
            batch.results.append(
                msgspec.json.encode({"custom_id": entry.custom_id, "result": result}) + b"\n"
            )
        self._random.shuffle(batch.results)

    def _result(self, entry: _Entry, cancelled: bool) -> dict[str, Any]:
        outcome = self._outcomes(entry.custom_id) if self._outcomes is not None else None
        if cancelled or outcome in ("expired", "canceled"):
            return {"type": "canceled" if cancelled else outcome}
        try:
            if outcome == "errored":
                raise ProblemError("api_error", "Internal server error")
            return {"type": "succeeded", "message": self._process(bytes(entry.params))}
        except ProblemError as problem:
            return {"type": "errored", "error": problem.event()}

    def _describe(self, batch: _Batch) -> dict[str, Any]:
        status = (
            "ended" if batch.ended is not None else "in_progress" if batch.cancelled is None else "canceling"
        )
        kinds = ("succeeded", "errored", "canceled", "expired")
        counts = {kind: batch.counts.get(kind, 0) for kind in kinds}
        return {
            "id": batch.id,
            "type": "message_batch",
            "processing_status": status,
            "request_counts": {"processing": len(batch.entries) - sum(counts.values()), **counts},
            "created_at": self._stamp(batch.created),
            "expires_at": self._stamp(batch.created + DAY),
            "ended_at": self._stamp(batch.ended),
            "cancel_initiated_at": self._stamp(batch.cancelled),
            "archived_at": None,
            "results_url": self._results_url(batch),
        }

    def _results_url(self, batch: _Batch) -> str | None:
        if batch.ended is None:
            return None
        return f"{self._base_url()}/v1/messages/batches/{batch.id}/results"

    def _stamp(self, at: float | None) -> str | None:
        return None if at is None else stamp(int(self._wall(at))).decode()
