"""The line to a server: HTTP over aiohttp, many exchanges at a time, and the splitter for event streams.

A provider opens an `Exchange`, looks at its status and headers, and reads it whole or piece by piece. What can go wrong
on the line is one of two built-in errors: `TimeoutError`, or `ConnectionError` with a text. They hold no reference to
the request, since its headers have the key in them. aiohttp is imported at the first exchange, off the loop.
"""

from __future__ import annotations

import asyncio
import importlib
import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from avm.errors import SpecError
from avm.io.providers.headers import Headers

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientSession, ClientTimeout
    from yarl import URL

CONNECTIONS = 1000
"""Connections at once unless the provider's concurrency is known."""

MOST = 64 << 20
"""Bytes of one response: a server that never ends must not fill the memory."""

STREAM_SECONDS = 3600.0
"""One stream at most, if no single call may take longer anyway; the largest replies take that long."""

_LARGE = 1 << 20
"""From here on aiohttp wants a file, which it sends piece by piece."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_KEEP = 60.0
_CONNECT = 30.0
_DRAIN = 0.25
_STREAM_BUFFER = 16384


class Exchange(Protocol):
    """One request that was sent, and its response as far as it has come."""

    @property
    def status(self) -> int:
        """HTTP's."""

    @property
    def headers(self) -> Headers:
        """Of the response."""

    async def read(self) -> bytes:
        """Return what has not been read of the body, and give the connection back. Errors as `Line.open`."""

    async def chunk(self) -> bytes:
        """Return the next bytes of the body as they came; empty at its end. Errors as `Line.open`."""

    async def finish(self) -> None:
        """Give the connection back when all that matters was read; it is closed if the server goes on."""

    async def close(self) -> None:
        """Close the connection unless the body was read to its end. Does not wait for the server."""


class Line(Protocol):
    """A way to a server."""

    async def open(
        self, method: str, path: str, body: bytes | None = None, *, stream: bool = False
    ) -> Exchange:
        """Send a request and wait for the head of its response.

        Args:
            path: from the root of the server, with its slash.
            body: JSON.
            stream: the body will be read piece by piece and may take its time.

        Raises:
            TimeoutError: no answer in time.
            ConnectionError: no connection, a broken one, or no HTTP on it.
        """

    async def close(self) -> None:
        """Close all connections; the next `open` makes new ones."""


class HttpLine:
    """A line over aiohttp, with its own pool of connections.

    Args:
        base_url: root of the server.
        headers: sent with every request, as they are.
        timeout: seconds for a whole exchange; of a stream, without a byte.
        connections: at once; more exchanges wait for one.
    """

    def __init__(
        self, base_url: str, headers: Mapping[str, str], *, timeout: float, connections: int = CONNECTIONS
    ) -> None:
        self._base_url = base_url
        self._headers = dict(headers)
        self._timeout = timeout
        self._connections = connections
        self._session: ClientSession | None = None
        self._opening: asyncio.Lock | None = None
        self._urls: dict[str, URL] = {}
        self._times: dict[bool, ClientTimeout] = {}
        self._broken: tuple[type[Exception], ...] = ()

    def __repr__(self) -> str:
        return f"HttpLine({shown_url(self._base_url)!r})"

    async def open(
        self, method: str, path: str, body: bytes | None = None, *, stream: bool = False
    ) -> Exchange:
        """Send a request and wait for the head of its response."""
        session = self._session or await self._start()
        content = body if body is None or len(body) < _LARGE else io.BytesIO(body)
        options: dict[str, Any] = {"read_bufsize": _STREAM_BUFFER} if stream else {}
        try:
            response = await session.request(
                method,
                self._urls.get(path) or self._url(path),
                data=content,
                allow_redirects=False,
                timeout=self._times[stream],
                **options,
            )
        except TimeoutError:
            failure: OSError = TimeoutError()
        except self._broken as error:
            failure = ConnectionError(describe(error))
        else:
            return HttpExchange(response, self._broken)
        # Out of the handler, so that aiohttp's error is no context of ours: it holds the request.
        raise failure

    async def close(self) -> None:
        """Close all connections; the next `open` makes new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _start(self) -> ClientSession:
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._session is None:
                # 0.2 s of import, which the loop must not be held for.
                await asyncio.to_thread(importlib.import_module, "aiohttp")
                self._session = self._make_session()
            return self._session

    def _make_session(self) -> ClientSession:
        import zlib

        import aiohttp
        from aiohttp.http import HttpProcessingError

        self._broken = (aiohttp.ClientError, HttpProcessingError, OSError, zlib.error, EOFError)
        self._times = {
            False: aiohttp.ClientTimeout(total=self._timeout, sock_connect=min(_CONNECT, self._timeout)),
            True: aiohttp.ClientTimeout(
                total=max(STREAM_SECONDS, self._timeout),
                sock_connect=min(_CONNECT, self._timeout),
                sock_read=self._timeout,
            ),
        }
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections, limit_per_host=0, keepalive_timeout=_KEEP, ttl_dns_cache=300
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
        )

    def _url(self, path: str) -> URL:
        from yarl import URL

        found = URL(self._base_url + path)
        # Those with the id of a batch in them are used a few times only.
        if len(self._urls) < 16:
            self._urls[path] = found
        return found


class HttpExchange:
    """An exchange over aiohttp."""

    __slots__ = ("_broken", "_response", "_taken")

    def __init__(self, response: ClientResponse, broken: tuple[type[Exception], ...]) -> None:
        self._response = response
        self._broken = broken
        self._taken = 0

    @property
    def status(self) -> int:
        """HTTP's."""
        return self._response.status

    @property
    def headers(self) -> Headers:
        """Of the response."""
        return self._response.headers

    async def read(self) -> bytes:
        """Return what has not been read of the body, and give the connection back."""
        first = await self.chunk()
        if self._response.content.at_eof():
            return first
        pieces = [first]
        while piece := await self.chunk():
            pieces.append(piece)
        return b"".join(pieces)

    async def chunk(self) -> bytes:
        """Return the next bytes of the body as they came; empty at its end."""
        try:
            piece = await self._response.content.readany()
        except TimeoutError:
            failure: OSError = TimeoutError()
        except self._broken as error:
            failure = ConnectionError(describe(error))
        else:
            self._taken += len(piece)
            if self._taken <= MOST:
                return piece
            failure = ConnectionError(f"more than {MOST >> 20} MiB came and no end")
        self._response.close()
        raise failure

    async def finish(self) -> None:
        """Give the connection back when all that matters was read; it is closed if the server goes on."""
        content = self._response.content
        if not content.at_eof():
            # The end of the body follows at once as a rule, and a connection is worth a moment.
            try:
                async with asyncio.timeout(_DRAIN):
                    await content.readany()
            except self._broken:
                pass
        self._response.close()

    async def close(self) -> None:
        """Close the connection unless the body was read to its end."""
        self._response.close()


class EventLines:
    """Splits the bytes of an event stream (SSE) into the data of its events, wherever the bytes are cut.

    Lines end in LF or CRLF; of the fields only `data` matters, several in one event are joined by line breaks. An event
    without data is none.
    """

    __slots__ = ("_half", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._half = b""

    def feed(self, chunk: bytes) -> list[bytes]:
        """Take the next bytes; return the data of the events that are whole now."""
        if self._half or b"\r" in chunk:
            chunk = self._half + chunk
            # The other half of a CRLF may be in the next bytes.
            self._half = b"\r" if chunk.endswith(b"\r") else b""
            chunk = chunk.removesuffix(b"\r").replace(b"\r\n", b"\n")
        pieces = self._pieces
        if b"\n\n" not in chunk and not (chunk.startswith(b"\n") and pieces and pieces[-1].endswith(b"\n")):
            # Pieces of an event are joined once, when its end has come.
            if chunk:
                pieces.append(chunk)
            return []
        if pieces:
            chunk = b"".join((*pieces, chunk))
            pieces.clear()
        *blocks, rest = chunk.split(b"\n\n")
        if rest:
            pieces.append(rest)
        events: list[bytes] = []
        for block in blocks:
            # As nearly all events look: one line of data, at their end.
            data = block.partition(b"\ndata:")[2]
            if not data or b"\n" in data or block.startswith(b"data:"):
                data = _data(block)
            elif data.startswith(b" "):
                data = data[1:]
            if data:
                events.append(data)
        return events


def _data(block: bytes) -> bytes:
    return b"\n".join([_value(line) for line in block.split(b"\n") if line.startswith(b"data:")])


def _value(line: bytes) -> bytes:
    return line[6:] if line.startswith(b"data: ") else line[5:]


def checked_url(url: str, name: str) -> str:
    """Return the root of a server without its last slash, and without "/v1", which the paths have.

    Raises:
        SpecError: it is not an http(s) URL.
    """
    try:
        parts = urlsplit(url)
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        right = False
    if not right or parts.query or parts.fragment:
        raise SpecError(f"{name}: base_url must be like 'http://127.0.0.1:8080', got {shown_url(url)!r}.")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")


def checked_key(key: str | None, name: str) -> str:
    """Return a key without the blanks around it; empty if there is none.

    Raises:
        SpecError: it has characters that no header can hold.
    """
    stripped = (key or "").strip()
    bad = next((n for n, letter in enumerate(stripped) if not "!" <= letter <= "~"), None)
    if bad is not None:
        # Which character it is would be a part of the key.
        raise SpecError(
            f"{name}: api_key must be printable ASCII without blanks, but character {bad} is not; "
            "see whether it was copied whole."
        )
    return stripped


def shown_url(url: str) -> str:
    """Return a URL without user, password and query; "..." stands for what cannot be told from these."""
    match = _SCHEME.match(url)
    scheme = match[0] if match is not None else ""
    before, mark, rest = url[len(scheme) :].rpartition("@")
    # A password with one of these in it, or a query or a path with an "@": which, depends on who reads it.
    if mark and re.search(r"[/?#\\]", before):
        return f"{scheme}..."
    shown = re.split(r"[?#]", rest, maxsplit=1)[0]
    return f"{scheme}{shown}" if shown == rest else f"{scheme}{shown}?..."


def describe(error: BaseException) -> str:
    """Return the name and the text of an error in one line, of 200 characters at most."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200].rstrip(": ")
