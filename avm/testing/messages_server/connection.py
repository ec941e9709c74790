"""One HTTP/1.1 connection of the Messages server.

Written on the transport instead of a web framework, for two reasons. The server stands in for a provider in benchmarks:
an aiohttp handler that does nothing took as much CPU a request (115 to 205 us, measured on a busy machine) as all of
this server does, which would be more than the client under test. And faults need the bytes: a reset after the n-th, a
content-length that lies.

Requests of a connection are served one after the other. What serves them returns the bytes of the whole response, or a
coroutine that writes it; the coroutine is cancelled when the client leaves.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any, cast

import attrs

MAX_HEAD = 64 * 1024
MAX_BODY = 256 * 1024 * 1024
"""Bytes of the largest body: a batch's."""

REASONS = {
    200: b"OK",
    400: b"Bad Request",
    401: b"Unauthorized",
    404: b"Not Found",
    413: b"Content Too Large",
    429: b"Too Many Requests",
    500: b"Internal Server Error",
}


class HTTPRequest:
    """A request as it came. Its header lines are read when somebody asks: most requests are asked for two of twenty."""

    __slots__ = ("_headers", "_lines", "body", "method", "path")

    def __init__(self, method: str, path: str, lines: bytes) -> None:
        self.method = method
        self.path = path
        self.body = b""
        self._lines = lines
        self._headers: dict[str, str] | None = None

    @property
    def headers(self) -> dict[str, str]:
        """The headers; their names are in lower case."""
        if self._headers is None:
            parted = [line.partition(":") for line in self._lines.decode("latin-1").split("\r\n")]
            self._headers = {name.lower(): value.strip() for name, colon, value in parted if colon}
        return self._headers

    def __repr__(self) -> str:
        # Headers hold the key.
        return f"HTTPRequest({self.method} {self.path}, {len(self.body)} bytes)"


@attrs.frozen(slots=True)
class Framing:
    """What the head of a request says of its body and of the connection."""

    length: int | None
    """Bytes of the body; None comes in chunks."""
    last: bool
    """Whether the connection is to be closed after it."""
    waits: bool
    """Whether the client waits to be told to send the body."""


Answer = bytes | Coroutine[Any, Any, None]
Serve = Callable[[HTTPRequest, "Connection"], Answer]


class BrokenRequestError(Exception):
    """What came is no HTTP request this server takes."""


class Connection(asyncio.Protocol):
    """Takes requests off one connection and writes their answers.

    Args:
        serve: answers a request.
        opened: the server's set of connections that are open.
    """

    def __init__(self, serve: Serve, opened: set[Connection]) -> None:
        self._serve = serve
        self._opened = opened
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._pieces: list[bytes] = []
        self._held = 0
        self._needed = 1
        self._encouraged = False
        self._last = False
        self.when_answered: Callable[[], None] | None = None
        """Called once when the coroutine that answers has ended, even if it was cancelled before it began."""
        self._writable: asyncio.Event | None = None

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What writes the answer that is under way, if it takes time."""
        return self._task

    def write(self, content: bytes) -> None:
        """Send bytes, unless the client has left."""
        if self._transport is not None:
            self._transport.write(content)

    async def drain(self) -> None:
        """Wait until the client has read enough for more to be written."""
        if self._writable is not None:
            await self._writable.wait()

    def close(self) -> None:
        """Send what is written and end the connection."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """End the connection at once; the client gets a reset, not an end."""
        if self._transport is None:
            return
        peer = self._transport.get_extra_info("socket")
        if peer is not None:
            # Closing a socket that lingers for no time sends RST.
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        # Not asyncio's class where the loop is uvloop's.
        self._transport = cast(asyncio.Transport, transport)
        self._opened.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop; ends the answer that is under way."""
        self._transport = None
        self._opened.discard(self)
        if self._writable is not None:
            self._writable.set()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Called by the loop when the client reads too slowly."""
        self._writable = asyncio.Event()

    def resume_writing(self) -> None:
        """Called by the loop when it has caught up."""
        if self._writable is not None:
            self._writable.set()
            self._writable = None

    def data_received(self, data: bytes) -> None:
        """Called by the loop; serves the request once it is whole."""
        self._pieces.append(data)
        self._held += len(data)
        if self._task is None and self._held >= self._needed:
            self._take()

    def _take(self) -> None:
        while self._task is None and self._transport is not None and self._held >= self._needed:
            text = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            try:
                request = self._read(text)
            except BrokenRequestError as error:
                self.write(respond(400, b"connection: close\r\n", str(error).encode(), b"text/plain"))
                self.close()
                return
            if request is None:
                self._pieces = [text]
                return
            self._answer(request)

    # None: more has to come, at least `_needed` bytes in all.
    def _read(self, text: bytes) -> HTTPRequest | None:
        end = text.find(b"\r\n\r\n")
        if end < 0:
            if len(text) > MAX_HEAD:
                raise BrokenRequestError(f"the head of the request is over {MAX_HEAD} bytes")
            self._needed = len(text) + 1
            return None
        request, framing = _read_head(text[:end])
        start = end + 4
        if framing.length is None:
            found = _read_chunks(text, start)
            stop = len(text) + 1 if found is None else found[1]
            request.body = b"" if found is None else found[0]
        else:
            stop = start + framing.length
            request.body = text[start:stop]
        if len(text) < stop:
            self._needed = stop
            if framing.waits and not self._encouraged:
                self._encouraged = True
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        self._last = framing.last
        rest = text[stop:]
        self._pieces = [rest] if rest else []
        self._held = len(rest)
        self._needed = 1
        self._encouraged = False
        return request

    def _answer(self, request: HTTPRequest) -> None:
        last = self._last
        answer = self._serve(request, self)
        if isinstance(answer, bytes):
            self.write(answer)
            if last:
                self.close()
            return
        self._task = asyncio.get_running_loop().create_task(answer)
        self._task.add_done_callback(lambda task: self._answered(task, last))

    def _answered(self, task: asyncio.Task[None], last: bool) -> None:
        self._task = None
        done, self.when_answered = self.when_answered, None
        if done is not None:
            done()
        error = None if task.cancelled() else task.exception()
        if error is not None:
            context = {"message": "the messages server failed at a request", "exception": error}
            task.get_loop().call_exception_handler(context)
        if error is not None or last:
            self.close()
        elif self._held:
            self._take()


def respond(status: int, headers: bytes, body: bytes, kind: bytes = b"application/json") -> bytes:
    """Return the bytes of a whole response.

    Args:
        headers: further header lines, each with its line end.
        kind: the content type.
    """
    return b"%scontent-type: %s\r\ncontent-length: %d\r\n\r\n%s" % (
        head(status, headers),
        kind,
        len(body),
        body,
    )


def head(status: int, headers: bytes) -> bytes:
    """Return the status line and header lines of a response, without the empty line that ends them."""
    return b"HTTP/1.1 %d %s\r\n%s" % (status, REASONS.get(status, b"Status"), headers)


def chunk(content: bytes) -> bytes:
    """Return content as one chunk of a chunked response; empty content would end it."""
    return b"%x\r\n%s\r\n" % (len(content), content)


LAST_CHUNK = b"0\r\n\r\n"


def _read_head(text: bytes) -> tuple[HTTPRequest, Framing]:
    line, _, lines = text.partition(b"\r\n")
    parts = line.decode("latin-1").split(" ")
    if len(parts) != 3 or not parts[2].startswith("HTTP/1."):
        raise BrokenRequestError(f"not a request line of HTTP/1.1: {line[:80]!r}")
    lower = b"\r\n%s\r\n" % lines.lower()
    chunked = _header(lower, b"transfer-encoding") == b"chunked"
    framing = Framing(
        None if chunked else _length(_header(lower, b"content-length") or b"0"),
        _header(lower, b"connection") == b"close",
        _header(lower, b"expect") == b"100-continue",
    )
    return HTTPRequest(parts[0], parts[1], lines), framing


def _header(lower: bytes, name: bytes) -> bytes:
    at = lower.find(b"\r\n%s:" % name)
    return lower[at + len(name) + 3 : lower.find(b"\r\n", at + 2)].strip() if at >= 0 else b""


def _length(found: bytes) -> int:
    if not found.isdigit() or int(found) > MAX_BODY:
        raise BrokenRequestError(f"content-length must be 0 to {MAX_BODY} bytes, got {found[:40]!r}")
    return int(found)


# The body and where it ends; None if it is not whole yet.
def _read_chunks(text: bytes, start: int) -> tuple[bytes, int] | None:
    pieces: list[bytes] = []
    while (end := text.find(b"\r\n", start)) >= 0:
        try:
            size = int(text[start:end].partition(b";")[0], 16)
        except ValueError:
            raise BrokenRequestError("a chunk of the body does not begin with its size") from None
        start = end + 2
        if not size:
            # Trailers, which nobody sends, are not read.
            return (b"".join(pieces), start + 2) if len(text) >= start + 2 else None
        if len(text) < start + size + 2:
            return None
        pieces.append(text[start : start + size])
        start += size + 2
    return None
