"""What can go wrong with a response of the Messages server, and how it is made to.

A fault is a value; a function of the request's number and the request says which request meets which. Those that are
`early` strike before the request is served: it is not charged and leaves nothing in the prompt cache. With the others
it was served, charged and counted against the limits, and only its response suffers, as with a real provider.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Literal

import attrs

from avm.errors import SpecError
from avm.testing.messages_server.call import Call
from avm.testing.messages_server.connection import LAST_CHUNK, Connection, chunk, head, respond
from avm.testing.messages_server.problem import ProblemError, of_status, spend_limit
from avm.testing.messages_server.reply import event

Kind = Literal[
    "status",
    "spend_limit",
    "hang",
    "html",
    "reset",
    "close",
    "cut",
    "slow",
    "half",
    "wrong_length",
    "endless",
    "error_event",
]

PAGE = b"<!DOCTYPE html><html><head><title>Welcome</title></head><body><h1>It works!</h1></body></html>"

Sleep = Callable[[float], Awaitable[object]]


@attrs.frozen(slots=True)
class ServerFault:
    """One fault; made by its class methods. `count` is in bytes or events, `seconds` what lies between writes."""

    kind: Kind
    code: int = 0
    retry_after: int | None = None
    count: int = 0
    seconds: float = 0.0

    @classmethod
    def status(cls, code: int, retry_after: int | None = None) -> ServerFault:
        """Answer with an error of this status, with or without the seconds to wait."""
        if not 400 <= code <= 599:
            raise SpecError(f"ServerFault.status: code must be 400 to 599, got {code!r}.")
        return cls("status", code=code, retry_after=retry_after)

    @classmethod
    def spend_limit(cls) -> ServerFault:
        """Answer 429 without a time to wait, since the account's money is spent."""
        return cls("spend_limit")

    @classmethod
    def hang(cls) -> ServerFault:
        """Never answer."""
        return cls("hang")

    @classmethod
    def html(cls) -> ServerFault:
        """Answer 200 with a page, as a proxy in between may."""
        return cls("html")

    @classmethod
    def reset(cls, after: int = 0) -> ServerFault:
        """Reset the connection after so many bytes of the response, its head included."""
        return cls("reset", count=after)

    @classmethod
    def close(cls, after: int = 0) -> ServerFault:
        """End the connection in order after so many bytes of the response, its head included."""
        return cls("close", count=after)

    @classmethod
    def cut(cls, events: int = 0) -> ServerFault:
        """End the connection after so many events of a stream; a response that is none has one."""
        return cls("cut", count=events)

    @classmethod
    def slow(cls, seconds: float) -> ServerFault:
        """Wait before each event of a stream; a response that is none has one."""
        return cls("slow", seconds=seconds)

    @classmethod
    def half(cls) -> ServerFault:
        """Send half of the JSON as if it were all; of a stream, half of its second event."""
        return cls("half")

    @classmethod
    def wrong_length(cls, by: int = 10) -> ServerFault:
        """Announce so many bytes more than come, then end the connection; below 0: fewer. Streams too get a length."""
        return cls("wrong_length", count=by)

    @classmethod
    def endless(cls, seconds: float = 0.01) -> ServerFault:
        """Never end the response: after half of it blanks, or pings of a stream, so many seconds apart."""
        return cls("endless", seconds=seconds)

    @classmethod
    def error_event(cls, events: int = 1) -> ServerFault:
        """Send an `overloaded_error` event after so many events of a stream; a response that is none becomes a 529."""
        return cls("error_event", count=events)

    @property
    def early(self) -> bool:
        """Whether it strikes before the request is served."""
        return self.kind in ("status", "spend_limit", "hang", "html") or (
            self.kind in ("reset", "close") and self.count == 0
        )

    def problem(self) -> ProblemError | None:
        """Return the error it answers with, if it is that kind of fault."""
        if self.kind == "status":
            return of_status(self.code, self.retry_after)
        return spend_limit() if self.kind == "spend_limit" else None


Faults = Callable[[int, Call], ServerFault | None]
"""Called with a request's number, from 1, and the request; says what goes wrong with it."""


@attrs.frozen(slots=True)
class Outgoing:
    """A response to be sent: its header lines, and its events or its one body."""

    headers: bytes
    parts: list[bytes]
    streamed: bool

    def whole(self) -> bytes:
        """Return all its bytes."""
        if not self.streamed:
            return respond(200, self.headers, self.parts[0])
        # Nobody can tell one chunk from many.
        return self.opening() + chunk(b"".join(self.parts)) + LAST_CHUNK

    def opening(self) -> bytes:
        """Return the head of a response in chunks."""
        kind = b"text/event-stream; charset=utf-8" if self.streamed else b"application/json"
        lines = b"content-type: %s\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n" % kind
        return head(200, self.headers) + lines


async def strike(fault: ServerFault, connection: Connection, headers: bytes) -> None:
    """Answer a request with an early fault that is no error of the API."""
    match fault.kind:
        case "hang":
            await _forever()
        case "html":
            connection.write(respond(200, headers, PAGE, b"text/html"))
        case "reset":
            connection.reset()
        case _:
            connection.close()


async def spoil(fault: ServerFault, connection: Connection, outgoing: Outgoing, sleep: Sleep) -> None:
    """Send a response with a fault that is not early."""
    match fault.kind:
        case "reset" | "close":
            await _send_bytes(fault, connection, outgoing)
        case "wrong_length":
            _send_wrong_length(fault, connection, outgoing)
        case "half":
            _send_half(connection, outgoing)
        case "error_event" if not outgoing.streamed:
            problem = ProblemError("overloaded_error", "Overloaded")
            connection.write(respond(problem.status, outgoing.headers, problem.body("")))
        case _:
            await _send_events(fault, connection, outgoing, sleep)


async def _send_bytes(fault: ServerFault, connection: Connection, outgoing: Outgoing) -> None:
    connection.write(outgoing.whole()[: fault.count])
    if fault.kind == "close":
        connection.close()
        return
    # A reset may overtake what was written; a turn of the loop lets that out first.
    await asyncio.sleep(0)
    connection.reset()


def _send_wrong_length(fault: ServerFault, connection: Connection, outgoing: Outgoing) -> None:
    body = b"".join(outgoing.parts)
    kind = b"text/event-stream" if outgoing.streamed else b"application/json"
    length = max(0, len(body) + fault.count)
    lines = b"content-type: %s\r\ncontent-length: %d\r\n\r\n" % (kind, length)
    connection.write(head(200, outgoing.headers) + lines + body)
    connection.close()


def _send_half(connection: Connection, outgoing: Outgoing) -> None:
    place = min(1, len(outgoing.parts) - 1)
    spoilt = outgoing.parts[place]
    half = spoilt[: len(spoilt) // 2] + (b"\n\n" if outgoing.streamed else b"")
    parts = [*outgoing.parts[:place], half, *outgoing.parts[place + 1 :]]
    connection.write(attrs.evolve(outgoing, parts=parts).whole())


async def _send_events(fault: ServerFault, connection: Connection, outgoing: Outgoing, sleep: Sleep) -> None:
    connection.write(outgoing.opening())
    for part in _parts_before(fault, outgoing):
        if fault.kind == "slow":
            await sleep(fault.seconds)
        connection.write(chunk(part))
        await connection.drain()
    if fault.kind == "cut":
        connection.close()
        return
    if fault.kind == "error_event":
        problem = ProblemError("overloaded_error", "Overloaded")
        connection.write(chunk(event("error", error=problem.event()["error"])))
    while fault.kind == "endless":
        await sleep(fault.seconds)
        connection.write(chunk(event("ping") if outgoing.streamed else b" "))
        await connection.drain()
    connection.write(LAST_CHUNK)


def _parts_before(fault: ServerFault, outgoing: Outgoing) -> list[bytes]:
    if fault.kind in ("cut", "error_event"):
        return outgoing.parts[: fault.count]
    if fault.kind == "endless":
        if outgoing.streamed:
            return outgoing.parts[: len(outgoing.parts) // 2]
        return [outgoing.parts[0][: len(outgoing.parts[0]) // 2]]
    return outgoing.parts


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()
