"""OpenAI's chat completions, and any server that answers them, over aiohttp.

No SDK: its import costs half a second and each of its calls 1.6 ms. There is a server of this kind for almost every
model; what they do differently (names of limits, missing ids, no usage in streams) is met where it is found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import blake3
import msgspec

from avm.errors import (
    BadOutput,
    ContextOverflow,
    NotAuthorized,
    ProviderConnection,
    ProviderError,
    Refused,
    SpendLimitReached,
)
from avm.io.limits import Limits
from avm.io.prices import price_of
from avm.io.providers.chat import ChatReply, to_chat
from avm.io.providers.failures import (
    Asked,
    from_body,
    from_line,
    from_status,
    plain,
    request_id_of,
)
from avm.io.providers.headers import Headers, read_limits
from avm.io.providers.http import (
    CONNECTIONS,
    EventLines,
    Exchange,
    HttpLine,
    Line,
    checked_key,
    checked_url,
    shown_url,
)
from avm.io.providers.provider import Capabilities, OnEvent, PlainProvider, Price
from avm.io.request import Completion, ModelRequest

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTED = "https://api.openai.com/v1"
TIMEOUT = 600.0

_CODES: Mapping[str, tuple[type[ProviderError], str]] = {
    "context_length_exceeded": (
        ContextOverflow,
        "shorten the conversation, or take a model with a larger context",
    ),
    "insufficient_quota": (SpendLimitReached, "asking again does not help before the limit is raised"),
}


class OpenAIProvider(PlainProvider):
    """Calls chat completions.

    Args:
        api_key: None is none, which the hosted API refuses and many other servers do not ask for.
        base_url: what comes before "/chat/completions", as in the OpenAI SDK; "/v1" is put behind a host alone. None is
            the hosted API.
        name: what the status line calls it.
        limits: what is allowed for each model. `input_tokens` is held without those that were read from the cache, as
            `Usage.input_tokens` is; OpenAI's own count has them, so what its headers say corrects it.
        prices: of models, by the beginning of their id; see `price_of`.
        timeout: seconds for one call; for one that is streamed, without a byte.
        concurrency: calls at once; None leaves it to the pool.

    Raises:
        SpecError: `base_url` is no URL, or `api_key` cannot be one.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        name: str = "openai",
        limits: Limits | None = None,
        prices: Mapping[str, Price] | None = None,
        timeout: float = TIMEOUT,
        concurrency: int | None = None,
    ) -> None:
        self.name = name
        self.concurrency = concurrency
        self._key = checked_key(api_key, "OpenAIProvider")
        self._root, self._path = _address(base_url or HOSTED)
        self._is_hosted = base_url is None
        self._limits = limits or Limits()
        self._prices = prices
        self._timeout = timeout
        self.credential = f"{name}:{blake3.blake3(self._key.encode()).hexdigest()[:8]}" if self._key else name
        self._line: Line = HttpLine(
            self._root, self._headers(), timeout=timeout, connections=concurrency or CONNECTIONS
        )

    def __repr__(self) -> str:
        return f"OpenAIProvider(base_url={shown_url(self._root + self._path)!r}, timeout={self._timeout:g})"

    async def complete(self, request: ModelRequest, *, on_event: OnEvent | None = None) -> Completion:
        """Make one call."""
        asked = self._asked(request)
        if self._is_hosted and not self._key:
            raise plain(asked, NotAuthorized, "there is no API key; set OPENAI_API_KEY or pass api_key=")
        # The name that old models and other servers know is refused by OpenAI's newer ones.
        limit = "max_completion_tokens" if self._is_hosted else "max_tokens"
        body = to_chat(request, max_tokens=limit, stream=on_event is not None)
        exchange = await self._open(asked, body, on_event is not None)
        try:
            return await self._read(asked, exchange, on_event)
        except (TimeoutError, ConnectionError) as error:
            if isinstance(error, ProviderError):
                raise
            failure = from_line(asked, error, self._timeout, exchange.headers)
        finally:
            await exchange.close()
        # Outside of the handler: the line's error has nothing to add, and its traceback holds more than it should.
        raise failure

    def capabilities(self, model: str) -> Capabilities:
        """Each model is a family. Servers cache prompts as they like: there is nothing to place or to wait for."""
        return Capabilities(family=model)

    def price(self, model: str) -> Price | None:
        """What `prices` say."""
        return price_of(model, self._prices)

    def limits(self, model: str) -> Limits:
        """The same for all models."""
        return self._limits

    async def close(self) -> None:
        """Close the connections."""
        await self._line.close()

    async def _open(self, asked: Asked, body: bytes, stream: bool) -> Exchange:
        try:
            return await self._line.open("POST", self._path, body, stream=stream)
        except (TimeoutError, ConnectionError) as error:
            failure = from_line(asked, error, self._timeout)
        except ImportError as error:
            text = f"aiohttp is not installed ({error}); pip install 'avm-runtime[openai]'"
            failure = plain(asked, ProviderError, text)
        raise failure

    async def _read(self, asked: Asked, exchange: Exchange, on_event: OnEvent | None) -> Completion:
        headers = exchange.headers
        if exchange.status != 200:
            raise _refusal(asked, exchange.status, headers, await exchange.read())
        limits = read_limits(headers)
        reply = ChatReply(self.name, request_id_of(headers), on_event, limits=limits)
        # A server that cannot stream answers all the same.
        if on_event is not None and "event-stream" in headers.get("content-type", ""):
            await self._stream(asked, exchange, reply)
        else:
            body = await exchange.read()
            _decode(asked, headers, body, reply.take)
        if reply.is_refusal:
            raise plain(asked, Refused, "the model, or the filter before it, refused to answer", headers)
        return reply.completion() if limits is None else reply.completion().told(limits)

    async def _stream(self, asked: Asked, exchange: Exchange, reply: ChatReply) -> None:
        lines = EventLines()
        while chunk := await exchange.chunk():
            for event in lines.feed(chunk):
                _decode(asked, exchange.headers, event, reply.feed)
        if not reply.is_complete:
            text = "the stream ended before the reply did; the call can be made again"
            raise plain(asked, ProviderConnection, text, exchange.headers)

    def _asked(self, request: ModelRequest) -> Asked:
        return Asked(
            provider=self.name,
            model=request.model,
            agent=request.agent,
            key_from="OPENAI_API_KEY or api_key=",
            url=shown_url(self._root + self._path),
            secrets=(self._key, urlsplit(self._root).password or ""),
        )

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        return headers


# Returns the root of the server, and the path of chat completions there.
def _address(base_url: str) -> tuple[str, str]:
    root = checked_url(base_url, "OpenAIProvider")
    bare = base_url.rstrip("/")
    # A host alone, or its "/v1": the usual place. Others have a path of their own.
    if bare != root or root.count("/") == 2:
        return root, "/v1/chat/completions"
    return root, "/chat/completions"


def _decode(asked: Asked, headers: Headers, body: bytes, take: Callable[[bytes], None]) -> None:
    try:
        take(body)
    except msgspec.DecodeError as error:
        if _error_of(body) is not None:
            raise _refusal(asked, 0, headers, body) from None
        if body.lstrip()[:1] == b"<":
            text = f"the response is {headers.get('content-type')}, not a reply of chat completions, at {asked.url!r}"
            raise plain(asked, BadOutput, f"{text}; check base_url", headers) from error
        raise from_body(asked, headers, body, str(error)) from error
    except UnicodeDecodeError as error:
        raise from_body(asked, headers, body, str(error)) from error


# Of an error that came in place of a reply; status 0 if HTTP's was 200.
def _refusal(asked: Asked, status: int, headers: Headers, body: bytes) -> ProviderError:
    error = _error_of(body) or {}
    code = error.get("code")
    if isinstance(code, str) and code in _CODES:
        kind, advice = _CODES[code]
        text = f"{code}: {str(error.get('message', '')).rstrip('. ')}; {advice}"
        return plain(asked, kind, text, headers)
    return from_status(asked, status, headers, body)


def _error_of(body: bytes) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    error = found.get("error") if isinstance(found, dict) else None
    return error if isinstance(error, dict) else None
