"""Any server that speaks the Messages API, by its base URL: hosted, llama.cpp, Ollama, vLLM.

A request goes out as bytes that are joined from encoded pieces, and its reply is decoded once. It is streamed only if
somebody looks, or if it may become too long to wait for in silence. What fails is one typed error with the server's
words; retries are the pool's. How the bytes travel is the business of a `Line`: here aiohttp, in `anthropic` the SDK.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import lru_cache
from time import monotonic
from typing import Literal
from urllib.parse import quote, urlsplit

import blake3
import msgspec

from avm.errors import BadOutput, NotAuthorized, ProviderError
from avm.io.limits import Limits, RateLimits
from avm.io.prices import price_of
from avm.io.providers.accumulator import Accumulator
from avm.io.providers.batches import Batch, encode_batch, read_batch, read_result
from avm.io.providers.failures import (
    Asked,
    from_body,
    from_event,
    from_line,
    from_status,
    from_stop,
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
from avm.io.providers.provider import BatchState, Capabilities, Delta, OnEvent, PlainProvider, Price, Started
from avm.io.providers.shape import from_reply
from avm.io.request import Completion, ModelRequest
from avm.io.wire import Wire

TIMEOUT = 600.0
MAX_UNSTREAMED_TOKENS = 21_333
"""Of `max_tokens`: more may take longer than ten minutes, in which many a proxy closes a silent line."""

API_VERSION = "2026-10-21"
"""Of the Messages API, as the SDK sends it."""

REPLIES = ("end_turn", "tool_use", "max_tokens", "stop_sequence")
"""Why a reply stops that needs no second look."""

PATH = "/v1/messages"
COUNT_PATH = f"{PATH}/count_tokens"
BATCH_PATH = f"{PATH}/batches"

# Tokens of the shortest prefix that is cached, where it is not 1,024. A family has one table of prefixes, so this is
# the largest of its models: for one that caches less, followers would wait for a leader in vain.
_MIN_CACHED = {"claude-opus-4": 4096, "claude-haiku-4": 4096}
_LINE = re.compile(r"claude-(?:(\d)-(?:\d-)?)?(opus|sonnet|haiku|fable|mythos)(?:-(\d{1,2})(?!\d))?")
_Body = dict[str, msgspec.Raw]


class _Counted(msgspec.Struct):
    input_tokens: int


_counted = msgspec.json.Decoder(_Counted)


HEARD = 0.01
"""Seconds for which what a response says of the limits is not read again."""

MODELS = 1000
"""Models of which that is remembered."""


class MessagesProvider(PlainProvider):
    """Calls a server's `/v1/messages`.

    Args:
        base_url: the server's root; a "/v1" at its end is taken off.
        api_key: sent as a bearer's token, as the SDK does; None sends none.
        name: what the status line and errors call it.
        limits: of every family, or of each by its name.
        prices: by model, before those that are known.
        timeout: seconds for one call; of a stream, without a byte.
        concurrency: calls at once; None leaves it to the pool.
        connections: at once; None follows `concurrency`.
        prompt_cache: what the server has: see `Capabilities`.
        slots: how many of them, if that is "slots".
        batches: whether the server takes batches; None: only the hosted API does.

    Raises:
        SpecError: a base_url or api_key that cannot be right.
    """

    needs_key = False
    key_from = "api_key="
    extra = "messages"
    """What to install for it."""

    def __init__(
        self,
        base_url: str,
        api_key: str | None = None,
        *,
        name: str = "messages",
        limits: Limits | Mapping[str, Limits] | None = None,
        prices: Mapping[str, Price] | None = None,
        timeout: float = TIMEOUT,
        concurrency: int | None = None,
        connections: int | None = None,
        prompt_cache: Literal["none", "prefix", "slots"] = "prefix",
        slots: int = 0,
        batches: bool | None = None,
    ) -> None:
        self.name = name
        self.concurrency = concurrency
        self._base_url = checked_url(base_url, name)
        self._key = checked_key(api_key, name)
        self.credential = f"{name}:{blake3.blake3(self._key.encode()).hexdigest()[:8]}" if self._key else name
        self._limits = limits
        self._prices = prices
        self._timeout = timeout
        self._connections = connections or concurrency or CONNECTIONS
        self._prompt_cache = prompt_cache
        self._slots = slots
        hosted = urlsplit(self._base_url).hostname == "api.anthropic.com"
        self._batches = hosted if batches is None else batches
        self._counts = True
        self._wire = Wire()
        # Until when what was last said of the limits of a model is new enough.
        self._heard: dict[str, float] = {}
        self._line = self._make_line()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({shown_url(self._base_url)!r}, timeout={self._timeout:g})"

    async def complete(self, request: ModelRequest, *, on_event: OnEvent | None = None) -> Completion:
        """Make one call."""
        streamed = on_event is not None or request.max_tokens > MAX_UNSTREAMED_TOKENS
        body = self._wire.body(request, stream=streamed)
        exchange = await self._open(request, "POST", PATH, body, stream=streamed)
        if streamed and exchange.status == 200 and _is_stream(exchange.headers):
            return await self._follow(request, exchange, on_event)
        completion = self._read(request, exchange.headers, await self._take(request, exchange))
        if on_event is not None:
            # Asked for a stream, the server gave all at once.
            on_event(Started(completion.request_id, completion.limits))
            on_event(Delta(completion.text))
        return completion

    async def count(self, request: ModelRequest) -> int:
        """Ask the server; an estimate if it does not count."""
        if not self._counts:
            return await super().count(request)
        body: _Body = msgspec.json.decode(self._wire.body(request, stream=False), type=_Body)
        for name in ("max_tokens", "stream"):
            body.pop(name, None)
        exchange = await self._open(request, "POST", COUNT_PATH, msgspec.json.encode(body))
        if exchange.status in (404, 405, 501):
            await exchange.close()
            self._counts = False
            return await super().count(request)
        found = await self._take(request, exchange)
        try:
            return _counted.decode(found).input_tokens
        except msgspec.DecodeError as error:
            raise from_body(self._asked(request), exchange.headers, found, str(error)) from error

    def capabilities(self, model: str) -> Capabilities:
        """Return what it can do for a model; the family of Claude's is its line and first number."""
        return Capabilities(
            family=family_of(model),
            batches=self._batches,
            prompt_cache=self._prompt_cache,
            min_cached_tokens=_MIN_CACHED.get(family_of(model), 1024),
            slots=self._slots,
        )

    def price(self, model: str) -> Price | None:
        """Return what a model costs; None if that is not known."""
        return price_of(model, self._prices)

    def limits(self, model: str) -> Limits:
        """Return what is configured for the family of a model."""
        if self._limits is None or isinstance(self._limits, Limits):
            return self._limits or Limits()
        return self._limits.get(family_of(model)) or self._limits.get(model) or Limits()

    async def close(self) -> None:
        """Close the connections. The next call opens them again."""
        await self._line.close()

    async def submit_batch(self, requests: Sequence[tuple[str, ModelRequest]]) -> str:
        """Hand in calls, each with an id of the caller's; return the batch's id."""
        body = await encode_batch((id, self._wire.body(request, stream=False)) for id, request in requests)
        return (await self._batch_call(f"take a batch of {len(requests)} calls", "POST", BATCH_PATH, body)).id

    async def poll_batch(self, batch: str) -> BatchState:
        """Ask how far a batch is."""
        return (await self._batch_call(f"look at batch {batch!r}", "GET", _path_of(batch))).state

    async def batch_results(self, batch: str) -> AsyncIterator[tuple[str, Completion | ProviderError]]:
        """Go through the results of a batch that has ended, in any order."""
        task = f"give the results of batch {batch!r}"
        found = await self._batch_call(task, "GET", _path_of(batch))
        # The key goes to no other server, whatever the results are said to be at.
        url = found.results_url or ""
        ours = url.startswith(self._base_url + "/")
        path = url[len(self._base_url) :] if ours else f"{_path_of(batch)}/results"
        exchange = await self._open(task, "GET", path, stream=True)
        if exchange.status != 200:
            await self._take(task, exchange)
        asked = self._asked(task)
        try:
            async for line in self._lines(task, exchange):
                yield read_result(asked, exchange.headers, line)
        finally:
            await exchange.close()

    async def cancel_batch(self, batch: str) -> None:
        """Ask the server to stop working on a batch."""
        await self._batch_call(f"cancel batch {batch!r}", "POST", f"{_path_of(batch)}/cancel", b"")

    def _make_line(self) -> Line:
        headers = {
            "accept": "application/json",
            # Replies are short, and unpacking them costs more than it saves.
            "accept-encoding": "identity",
            "content-type": "application/json",
            "anthropic-version": API_VERSION,
            "user-agent": "avm",
        }
        if self._key:
            # As the SDK sends it; vLLM and llama.cpp take no other, or this one too.
            headers["authorization"] = f"Bearer {self._key}"
        return HttpLine(self._base_url, headers, timeout=self._timeout, connections=self._connections)

    def _asked(self, whose: ModelRequest | str) -> Asked:
        return Asked(
            provider=self.name,
            model="" if isinstance(whose, str) else whose.model,
            agent="" if isinstance(whose, str) else whose.agent,
            task=whose if isinstance(whose, str) else "",
            key_from=self.key_from,
            url=shown_url(self._base_url),
            secrets=(self._key, urlsplit(self._base_url).password or ""),
        )

    # `whose`: a request, or in words what is to be done. Errors are raised outside of the handlers: the error they come
    # from has nothing to add, and some hold a request with its key.
    async def _open(
        self,
        whose: ModelRequest | str,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        stream: bool = False,
    ) -> Exchange:
        if self.needs_key and not self._key:
            text = f"there is no API key; set {self.key_from} or pass api_key="
            raise plain(self._asked(whose), NotAuthorized, text)
        try:
            return await self._line.open(method, path, body, stream=stream)
        except (TimeoutError, ConnectionError) as error:
            failure = from_line(self._asked(whose), error, self._timeout)
        except ImportError as error:
            text = f"what it needs is not installed ({error}); pip install 'avm-runtime[{self.extra}]'"
            failure = plain(self._asked(whose), ProviderError, text)
        raise failure

    async def _take(self, whose: ModelRequest | str, exchange: Exchange) -> bytes:
        try:
            body = await exchange.read()
        except (TimeoutError, ConnectionError) as error:
            failure = from_line(self._asked(whose), error, self._timeout, exchange.headers)
        except BaseException:
            await exchange.close()
            raise
        else:
            if 200 <= exchange.status < 300:
                return body
            failure = from_status(self._asked(whose), exchange.status, exchange.headers, body)
        raise failure

    async def _follow(
        self, request: ModelRequest, exchange: Exchange, on_event: OnEvent | None
    ) -> Completion:
        headers = exchange.headers
        asked = self._asked(request)
        limits = self._limits_of(request.model, headers)
        reply = Accumulator(
            self.name,
            on_event,
            request_id=request_id_of(headers),
            on_error=lambda kind, said: from_event(asked, headers, kind, said),
            limits=limits,
        )
        try:
            await _drink(exchange, reply)
        except msgspec.DecodeError as error:
            failure = from_event(asked, headers, "", f"an event that cannot be read ({error})", BadOutput)
        except ProviderError:
            raise
        except (TimeoutError, ConnectionError) as error:
            failure = from_line(asked, error, self._timeout, headers)
        else:
            return self._checked(request, reply.result(), headers, limits)
        finally:
            await exchange.close()
        raise failure

    def _read(self, request: ModelRequest, headers: Headers, body: bytes) -> Completion:
        try:
            completion = from_reply(body, self.name, request_id_of(headers))
        except msgspec.DecodeError as error:
            asked = self._asked(request)
            if _is_error(body):
                raise from_status(asked, 0, headers, body) from None
            raise from_body(asked, headers, body, str(error)) from error
        return self._checked(request, completion, headers, self._limits_of(request.model, headers))

    def _checked(
        self, request: ModelRequest, completion: Completion, headers: Headers, limits: RateLimits | None
    ) -> Completion:
        if completion.stop_reason not in REPLIES:
            stopped = from_stop(self._asked(request), headers, completion.stop_reason, request.position)
            if stopped is not None:
                raise stopped
        return completion if limits is None else completion.told(limits)

    def _limits_of(self, model: str, headers: Headers) -> RateLimits | None:
        # What many responses say within a moment is the same, and reading it costs as much as reading the reply.
        now = monotonic()
        if now < self._heard.get(model, 0.0):
            return None
        limits = read_limits(headers)
        if limits is not None:
            if len(self._heard) >= MODELS:
                self._heard.clear()
            self._heard[model] = now + HEARD
        return limits

    async def _batch_call(self, task: str, method: str, path: str, body: bytes | None = None) -> Batch:
        exchange = await self._open(task, method, path, body)
        found = await self._take(task, exchange)
        return read_batch(self._asked(task), exchange.headers, found)

    async def _lines(self, task: str, exchange: Exchange) -> AsyncIterator[bytes]:
        pieces: list[bytes] = []
        try:
            while chunk := await exchange.chunk():
                pieces.append(chunk)
                if b"\n" in chunk:
                    *lines, rest = b"".join(pieces).split(b"\n")
                    pieces = [rest]
                    for line in filter(bytes.strip, lines):
                        yield line
        except (TimeoutError, ConnectionError) as error:
            failure = from_line(self._asked(task), error, self._timeout, exchange.headers)
        else:
            if last := b"".join(pieces).strip():
                yield last
            return
        raise failure


async def _drink(exchange: Exchange, reply: Accumulator) -> None:
    """Feed a reply with its events until it is complete."""
    lines = EventLines()
    while not reply.is_complete:
        chunk = await exchange.chunk()
        if not chunk:
            raise ConnectionError("the stream ended before its message did")
        for event in lines.feed(chunk):
            reply.feed(event)
    await exchange.finish()


def _path_of(batch: str) -> str:
    return f"{BATCH_PATH}/{quote(batch, safe='')}"


def _is_stream(headers: Headers) -> bool:
    return headers.get("content-type", "").startswith("text/event-stream")


def _is_error(body: bytes) -> bool:
    # The type of an error comes first, or the error itself does.
    return b'"error"' in body[:24]


@lru_cache(maxsize=256)
def family_of(model: str) -> str:
    """Return the models it shares limits with: "claude-sonnet-5" for "claude-sonnet-5-5"; others are their own."""
    found = _LINE.search(model)
    if found is None:
        return model
    before, line, after = found.groups()
    return "-".join(filter(None, ("claude", line, after or before)))
