"""Claude, through the real SDK.

The SDK is imported at the first call: its import costs a second and 75 MB, which a scripted run must not pay. It makes
no retries, since those belong to the pool, and its aiohttp transport is used where aiohttp is installed. It brings the
bytes there and back with its headers and credentials; requests are not encoded by it, nor replies decoded, which is
most of what it costs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from avm.io.limits import Limits
from avm.io.providers.headers import Headers
from avm.io.providers.http import MOST, STREAM_SECONDS, Exchange, Line, describe, shown_url
from avm.io.providers.messages import TIMEOUT, MessagesProvider
from avm.io.providers.provider import Price

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from httpx2 import Response

HOSTED = "https://api.anthropic.com"

_CONNECT = 30.0
_DRAIN = 0.25
_LARGE = 1 << 20


class AnthropicProvider(MessagesProvider):
    """Calls the Messages API with the anthropic SDK.

    Args:
        api_key: None looks at nothing else and fails at the first call; `choose_provider` reads the environment.
        base_url: None is the hosted API.
        timeout: seconds for one call; of a stream, without a byte.
        concurrency: calls at once; None leaves it to the pool.
        connections: at once; None follows `concurrency`.
        limits: of every family, or of each by its name ("claude-sonnet-5").
        prices: by model, before those that are known.

    Raises:
        SpecError: a base_url or api_key that cannot be right.
    """

    needs_key = True
    key_from = "ANTHROPIC_API_KEY"
    extra = "anthropic"

    def __init__(
        self,
        api_key: str | None,
        *,
        base_url: str | None = None,
        timeout: float = TIMEOUT,
        concurrency: int | None = None,
        connections: int | None = None,
        limits: Limits | Mapping[str, Limits] | None = None,
        prices: Mapping[str, Price] | None = None,
    ) -> None:
        super().__init__(
            base_url or HOSTED,
            api_key,
            name="anthropic",
            limits=limits,
            prices=prices,
            timeout=timeout,
            concurrency=concurrency,
            connections=connections,
            batches=True,
        )

    def _make_line(self) -> Line:
        return SdkLine(self._base_url, self._key, timeout=self._timeout, connections=self._connections)


class SdkLine:
    """A line through the client of the SDK; arguments as those of `HttpLine`."""

    def __init__(self, base_url: str, api_key: str, *, timeout: float, connections: int) -> None:
        self._base_url = base_url
        self._api_key = api_key
        self._timeout = timeout
        self._connections = connections
        self._client: AsyncAnthropic | None = None
        self._opening: asyncio.Lock | None = None

    def __repr__(self) -> str:
        return f"SdkLine({shown_url(self._base_url)!r})"

    async def open(
        self, method: str, path: str, body: bytes | None = None, *, stream: bool = False
    ) -> Exchange:
        """Send a request and wait for the head of its response."""
        client = self._client or await self._start()
        import httpx2

        send, options = (client.get, {}) if method == "GET" else (client.post, _content(body or b""))
        allowed = max(STREAM_SECONDS, self._timeout) if stream else self._timeout
        deadline = asyncio.get_running_loop().time() + allowed
        try:
            async with asyncio.timeout_at(deadline):
                # Read by us, piece by piece, so that a body without end does not fill the memory.
                response = await send(path, cast_to=httpx2.Response, stream=True, stream_cls=None, **options)
        except Exception as error:
            found = _heard(error)
            if found is None:
                raise
        else:
            return SdkExchange(response, deadline)
        if isinstance(found, Exception):
            # Out of the handler, so that the SDK's error is no context of ours: it holds the request with its key.
            raise found
        return SdkExchange(found, deadline)

    async def close(self) -> None:
        """Close all connections; the next `open` makes new ones."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _start(self) -> AsyncAnthropic:
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._client is None:
                # Off the loop: the import alone takes a second.
                self._client = await asyncio.to_thread(self._make_client)
            return self._client

    def _make_client(self) -> AsyncAnthropic:
        import anthropic
        import httpx2

        limits = httpx2.Limits(max_connections=self._connections, max_keepalive_connections=self._connections)
        wait = httpx2.Timeout(self._timeout, connect=min(_CONNECT, self._timeout))
        # A redirect would take the key to another server.
        options: dict[str, Any] = {"limits": limits, "timeout": wait, "follow_redirects": False}
        try:
            transport = anthropic.DefaultAioHttpClient(**options)
        except RuntimeError:
            transport = anthropic.DefaultAsyncHttpxClient(**options)
        return anthropic.AsyncAnthropic(
            api_key=self._api_key,
            base_url=self._base_url,
            max_retries=0,
            timeout=wait,
            http_client=transport,
        )


class SdkExchange:
    """An exchange through the SDK."""

    __slots__ = ("_deadline", "_headers", "_pieces", "_response", "_taken")

    def __init__(self, response: Response, deadline: float) -> None:
        self._response = response
        self._deadline = deadline
        self._headers: Headers | None = None
        self._pieces: AsyncIterator[bytes] = response.aiter_bytes()
        self._taken = 0

    @property
    def status(self) -> int:
        """HTTP's."""
        return int(self._response.status_code)

    @property
    def headers(self) -> Headers:
        """Of the response."""
        # The SDK's own go through all fields at each look.
        if self._headers is None:
            raw = self._response.headers.raw
            self._headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}
        return self._headers

    async def read(self) -> bytes:
        """Return what has not been read of the body, and give the connection back."""
        pieces = []
        while piece := await self.chunk():
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def chunk(self) -> bytes:
        """Return the next bytes of the body as they came; empty at its end."""
        try:
            async with asyncio.timeout_at(self._deadline):
                piece: bytes = await anext(self._pieces, b"")
        except Exception as error:
            failure = _heard(error)
            if not isinstance(failure, Exception):
                raise
        else:
            self._taken += len(piece)
            if self._taken <= MOST:
                return piece
            failure = ConnectionError(f"more than {MOST >> 20} MiB came and no end")
        await self.close()
        raise failure

    async def finish(self) -> None:
        """Give the connection back when all that matters was read; it is closed if the server goes on."""
        try:
            async with asyncio.timeout(_DRAIN):
                await anext(self._pieces, b"")
        except Exception as error:
            if not isinstance(_heard(error), Exception):
                raise
        await self.close()

    async def close(self) -> None:
        """Close the connection unless the body was read to its end."""
        await self._response.aclose()


# A large body goes out piece by piece: aiohttp warns of one that does not, and the loop is not held.
def _content(body: bytes) -> dict[str, Any]:
    if len(body) < _LARGE:
        return {"content": body}
    return {"content": _pieces(body), "options": {"headers": {"content-length": str(len(body))}}}


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _LARGE):
        yield body[start : start + _LARGE]


# What an error of the SDK comes to: an error of the line, or a response. None: an error of the program.
def _heard(error: Exception) -> OSError | Response | None:
    import anthropic
    import httpx2

    if isinstance(error, anthropic.APIStatusError):
        return error.response
    if isinstance(error, (TimeoutError, anthropic.APITimeoutError, httpx2.TimeoutException)):
        return TimeoutError()
    if isinstance(error, anthropic.APIConnectionError):
        return ConnectionError(describe(error.__cause__ or error))
    if isinstance(error, (anthropic.AnthropicError, httpx2.HTTPError, OSError)) or _is_aiohttp(error):
        return ConnectionError(describe(error))
    return None


# Its transport lets through what it has no own error for: a chunk without a length, say.
def _is_aiohttp(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] == "aiohttp"
