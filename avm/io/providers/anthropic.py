"""Claude, through the real SDK.

The SDK is imported at the first call: its import costs a second and 75 MB, which a scripted run must not pay. It makes
no retries, since those belong to the pool, and its aiohttp transport is used where aiohttp is installed. Responses are
read as bytes and decoded here, so the arguments of a tool call are kept as the model wrote them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from avm.errors import (
    BadOutput,
    ContextOverflow,
    Overloaded,
    ProviderConnection,
    ProviderError,
    ProviderTimeout,
    RateLimited,
    Refused,
)
from avm.io.providers.shape import from_reply, to_turns
from avm.io.request import Completion, ModelRequest

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic

TIMEOUT = 600.0
CONNECTIONS = 1000
MAX_UNSTREAMED_TOKENS = 21_333
"""Above this many `max_tokens` the SDK refuses a call that is not streamed."""


class AnthropicProvider:
    """Calls the Messages API with the anthropic SDK.

    Args:
        api_key: None looks at nothing else and fails at the first call; `choose_provider` reads the environment.
        base_url: None is the hosted API.
        timeout: seconds for one call.
        concurrency: calls at once; None leaves it to the pool.
    """

    name = "anthropic"

    def __init__(
        self,
        api_key: str | None,
        *,
        base_url: str | None = None,
        timeout: float = TIMEOUT,
        concurrency: int | None = None,
    ) -> None:
        self.concurrency = concurrency
        self._api_key = api_key
        self._base_url = base_url
        self._timeout = timeout
        self._client: AsyncAnthropic | None = None
        self._opening: asyncio.Lock | None = None

    def __repr__(self) -> str:
        return f"AnthropicProvider(base_url={self._base_url!r}, timeout={self._timeout:g})"

    async def complete(self, request: ModelRequest) -> Completion:
        """Make one call."""
        if request.max_tokens > MAX_UNSTREAMED_TOKENS:
            raise self._error(
                ProviderError,
                request,
                f"max_tokens must be {MAX_UNSTREAMED_TOKENS} or less, got {request.max_tokens}",
            )
        client = self._client or await self._open(request)
        try:
            response = await client.messages.with_raw_response.create(**_arguments(request))
            body = await response.read()
        except Exception as error:
            failure = self._translate(error, request)
            if failure is None:
                raise
            raise failure from error
        return self._read(body, response.request_id or "", request)

    async def close(self) -> None:
        """Close the connections. The next call opens them again."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _open(self, request: ModelRequest) -> AsyncAnthropic:
        if not self._api_key:
            raise self._error(
                ProviderError, request, "there is no API key; set ANTHROPIC_API_KEY or pass api_key="
            )
        if self._opening is None:
            self._opening = asyncio.Lock()
        async with self._opening:
            if self._client is None:
                # Off the loop: the import alone takes a second.
                try:
                    self._client = await asyncio.to_thread(
                        _make_client, self._api_key, self._base_url, self._timeout
                    )
                except ImportError as error:
                    text = (
                        f"the anthropic SDK is not installed ({error}); pip install 'avm-runtime[anthropic]'"
                    )
                    raise self._error(ProviderError, request, text) from error
            return self._client

    def _read(self, body: bytes, request_id: str, request: ModelRequest) -> Completion:
        try:
            completion = from_reply(body, self.name, request_id)
        except msgspec.DecodeError as error:
            start = body[:60].decode("utf-8", "replace")
            text = f"the response is not a message ({error}); it begins {start!r}"
            raise self._error(BadOutput, request, text, request_id) from error
        if completion.stop_reason == "refusal":
            raise self._error(Refused, request, "the model refused to answer", request_id)
        if completion.stop_reason == "model_context_window_exceeded":
            text = f"the conversation of {request.position} messages fills the model's context; shorten it"
            raise self._error(ContextOverflow, request, text, request_id)
        return completion

    # None: not an error of the call, but of the program.
    def _translate(self, error: Exception, request: ModelRequest) -> ProviderError | None:
        import anthropic
        import httpx2

        if isinstance(error, anthropic.APITimeoutError):
            return self._error(ProviderTimeout, request, f"no reply in {self._timeout:g} s")
        if isinstance(error, (anthropic.APIConnectionError, httpx2.TransportError)):
            return self._error(ProviderConnection, request, f"no connection, or a broken one ({_say(error)})")
        if isinstance(error, anthropic.APIStatusError):
            return self._from_status(error, request)
        if isinstance(error, anthropic.AnthropicError):
            return self._error(ProviderError, request, _say(error))
        return None

    def _from_status(self, error: Any, request: ModelRequest) -> ProviderError:
        status, request_id = error.status_code, error.request_id or ""
        said = error.api_message or f"HTTP {status}"
        code = f", {error.error_code}" if error.error_code else ""
        text = f"HTTP {status}{code}: {said}"
        if status == 429:
            return self._error(RateLimited, request, text, request_id, _retry_after(error))
        if status in (503, 529):
            return self._error(Overloaded, request, text, request_id)
        if status in (408, 504):
            return self._error(ProviderTimeout, request, text, request_id)
        # A prompt over the context has no code of its own: 413 for the bytes, 400 with these words for the tokens.
        if status == 413 or (status == 400 and "prompt is too long" in said):
            return self._error(ContextOverflow, request, text, request_id)
        if status in (401, 403):
            text += "; check ANTHROPIC_API_KEY"
        elif status == 404:
            text += f"; check the model {request.model!r}"
        return self._error(ProviderError, request, text, request_id)

    def _error(
        self,
        kind: type[ProviderError],
        request: ModelRequest,
        text: str,
        request_id: str = "",
        retry_after: float | None = None,
    ) -> ProviderError:
        asked = f" (request {request_id})" if request_id else ""
        message = (
            f"anthropic could not serve {request.model!r} to {request.agent or 'its caller'}: {text}{asked}."
        )
        if kind is RateLimited:
            return RateLimited(message, self.name, request.model, request_id, retry_after)
        return kind(message, self.name, request.model, request_id)


def _make_client(api_key: str, base_url: str | None, timeout: float) -> AsyncAnthropic:
    import anthropic
    import httpx2

    limits = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    wait = httpx2.Timeout(timeout, connect=min(30.0, timeout))
    try:
        transport = anthropic.DefaultAioHttpClient(limits=limits, timeout=wait)
    except RuntimeError:
        transport = anthropic.DefaultAsyncHttpxClient(limits=limits, timeout=wait)
    return anthropic.AsyncAnthropic(
        api_key=api_key, base_url=base_url, max_retries=0, timeout=wait, http_client=transport
    )


def _arguments(request: ModelRequest) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": request.model,
        "max_tokens": request.max_tokens,
        "messages": to_turns(request.history()),
    }
    if request.system:
        arguments["system"] = request.system
    if request.tools:
        arguments["tools"] = msgspec.json.decode(request.tools)
    return arguments


def _retry_after(error: Any) -> float | None:
    headers = error.response.headers
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return float(headers[name]) * unit
        except (KeyError, ValueError):
            continue
    return None


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")
