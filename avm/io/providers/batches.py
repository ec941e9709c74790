"""Batches of the Messages API: how calls are handed in as one, and how results come, a line of JSON for each.

A batch may have a hundred megabytes, so it is encoded in slices, between which others on the loop have their turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import attrs
import msgspec

from avm.errors import ProviderError, ProviderTimeout
from avm.io.providers.failures import Asked, from_body, from_status, from_stop, plain
from avm.io.providers.headers import Headers
from avm.io.providers.provider import BatchState
from avm.io.providers.shape import from_reply
from avm.io.request import Completion

SLICE = 256 << 10
"""Bytes of a batch that are encoded in one go: two milliseconds."""

LARGE = 4 << 20
"""Bytes from which on a batch is joined in a thread."""


class Counts(msgspec.Struct):
    """How many calls of a batch ended in which way; all zero until the batch has ended."""

    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0


class Batch(msgspec.Struct):
    """A batch as the server describes it."""

    id: str
    processing_status: str = ""
    request_counts: Counts = msgspec.field(default_factory=Counts)
    results_url: str | None = None

    @property
    def state(self) -> BatchState:
        """How far it is."""
        counts = self.request_counts
        failed = counts.errored + counts.canceled + counts.expired
        return BatchState(self.processing_status == "ended", counts.succeeded, failed)


class _Outcome(msgspec.Struct):
    type: str
    message: msgspec.Raw = msgspec.Raw(b"")


class _Result(msgspec.Struct):
    custom_id: str
    result: msgspec.Raw


_batch = msgspec.json.Decoder(Batch)
_result = msgspec.json.Decoder(_Result)
_outcome = msgspec.json.Decoder(_Outcome)


async def encode_batch(calls: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the body that hands in calls, each an id and the body it would have by itself."""
    parts: list[bytes] = []
    opening, size, total = b'{"requests":[', 0, 0
    for id, body in calls:
        parts += (opening, b'{"custom_id":%b,"params":' % msgspec.json.encode(id), body, b"}")
        opening = b","
        size += len(body)
        if size >= SLICE:
            total += size
            size = 0
            await asyncio.sleep(0)
    parts.append(b"]}")
    # Python lets others go on while a thread joins many bytes: 60 MB take 60 ms.
    return b"".join(parts) if total < LARGE else await asyncio.to_thread(b"".join, parts)


def read_batch(asked: Asked, headers: Headers, body: bytes) -> Batch:
    """Read the description of a batch.

    Raises:
        ProviderError: it is none.
    """
    try:
        return _batch.decode(body)
    except msgspec.DecodeError as error:
        raise from_body(asked, headers, body, str(error)) from error


def read_result(asked: Asked, headers: Headers, line: bytes) -> tuple[str, Completion | ProviderError]:
    """Read one line of the results: the id of a call, and what came of it.

    A result that makes no sense is its call's failure, so that the others can be read.

    Raises:
        ProviderError: the line is none.
    """
    try:
        found = _result.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise from_body(asked, headers, line, str(error)) from error
    result = bytes(found.result)
    try:
        return found.custom_id, _read_outcome(asked, result)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        failure = from_body(asked, headers, result, str(error))
    return found.custom_id, failure


def _read_outcome(asked: Asked, result: bytes) -> Completion | ProviderError:
    outcome = _outcome.decode(result)
    if outcome.type != "succeeded":
        return _failure(asked, outcome.type, result)
    completion = from_reply(bytes(outcome.message), asked.provider, "")
    stopped = from_stop(asked, {}, completion.stop_reason)
    return stopped or attrs.evolve(completion, source="batch")


def _failure(asked: Asked, kind: str, result: bytes) -> ProviderError:
    if kind == "errored":
        return from_status(asked, 0, {}, result)
    if kind == "expired":
        return plain(asked, ProviderTimeout, "the batch expired before this call's turn")
    return plain(asked, ProviderError, f"the call is {kind}")
