"""The Messages server: takes requests, decides what each gets, and keeps the ledger.

A request for a message passes, in this order: the key, the checks of its body, faults that strike early, the rate
limits, the prompt cache, the reply, the latency, and the faults that spoil a response. One that meets neither latency
nor a fault is answered within the loop's callback that brought it, without a task.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from email.utils import formatdate
from functools import lru_cache
from random import Random
from types import TracebackType
from typing import Any

import attrs
import msgspec

from avm.errors import SpecError
from avm.io.limits import Limits
from avm.io.providers.scripted import Latency
from avm.testing.messages_server.batches import SECONDS, Batches, Outcomes
from avm.testing.messages_server.buckets import Buckets
from avm.testing.messages_server.cache import MIN_TOKENS, NOTHING, CachePlan, PromptCache
from avm.testing.messages_server.call import Body, Call, Chains, Sections
from avm.testing.messages_server.checks import Checks, ModelRules
from avm.testing.messages_server.connection import Answer, Connection, HTTPRequest, respond
from avm.testing.messages_server.faults import Faults, Outgoing, ServerFault, Sleep, spoil, strike
from avm.testing.messages_server.ledger import Account, Ledger, UsageCounts
from avm.testing.messages_server.problem import ProblemError
from avm.testing.messages_server.reply import Message, Replies, Scripted, ServerReply, echo, fit

MAX_BODY = 32 * 1024 * 1024
"""Bytes of the largest request for a message."""

KEPT = 100


@attrs.define(slots=True)
class _Served:
    """A request that was let in, on its way to its response."""

    call: Call
    sections: Sections
    plan: CachePlan
    buckets: Buckets
    request_id: bytes
    reply: Scripted | Awaitable[Scripted]


class MessagesServer:
    """Serves the Messages API on the loopback interface for as long as its block runs.

    Args:
        reply: text or a `ServerReply` for all, replies in order, or a function of the request, sync or async; None
            echoes.
        latency: seconds until a response begins: a `Latency`, text as "120ms~0.35", None is none.
        limits: of all models together, or by the beginning of a model's name.
        cache: whether prompts are cached where they are marked.
        faults: what goes wrong with which request; see `ServerFault`.
        seed: of latencies and of the order of batch results.
        api_key: the only one taken; None takes any, and none.
        models: the names that are known; None knows all.
        context: tokens of the longest prompt, and of prompt and reply together.
        max_output_tokens: the most `max_tokens` may be.
        min_cached_tokens: a shorter prefix is not cached.
        capacity: requests under way above which more are answered 529.
        delta_characters: of one delta of a stream.
        batch_seconds: how long a batch takes, on the clock of `now`.
        batch_outcomes: what becomes of single requests of batches.
        kept: how many requests `requests` keeps; the oldest go first.
        host, port: where to listen; port 0 takes any that is free.
        now: seconds of a clock that only goes forward: buckets, cache and batches live by it.
        sleep: waits out latencies and slow streams.

    Raises:
        SpecError: a value that cannot be right.
    """

    def __init__(
        self,
        reply: Replies | None = None,
        *,
        latency: Latency | str | None = None,
        limits: Limits | Mapping[str, Limits] | None = None,
        cache: bool = True,
        faults: Faults | None = None,
        seed: int = 0,
        api_key: str | None = None,
        models: Collection[str] | None = None,
        context: int | None = None,
        max_output_tokens: int | None = None,
        min_cached_tokens: int = MIN_TOKENS,
        capacity: int | None = None,
        delta_characters: int = 16,
        batch_seconds: float = SECONDS,
        batch_outcomes: Outcomes | None = None,
        kept: int = KEPT,
        host: str = "127.0.0.1",
        port: int = 0,
        now: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        if delta_characters < 1:
            raise SpecError(f"MessagesServer: delta_characters must be 1 or more, got {delta_characters!r}.")
        self._function, self._replies = _replies(reply)
        self._latency = Latency.parse(latency) if isinstance(latency, str) else latency or Latency()
        self._limits = {"": limits or Limits()} if not isinstance(limits, Mapping) else dict(limits)
        self._cache = PromptCache(min_cached_tokens) if cache else None
        self._chains = Chains()
        self._faults = faults
        self._random = Random(seed)
        self._api_key = api_key
        self._models = models
        self._context = context
        self._checks = Checks(ModelRules(models, context, max_output_tokens))
        self._capacity = capacity
        self._delta_characters = delta_characters
        self._host, self._port = host, port
        self._now, self._sleep = now, sleep
        self._epoch = time.time() - now()
        self._buckets: dict[str, Buckets] = {}
        self._kept: deque[Call] = deque(maxlen=kept)
        self._live, self._batched = Account(), Account()
        self.received = 0
        """Requests for a message that came in, right or wrong, those of batches not counted."""
        self.in_flight = 0
        """Requests for a message that are being answered."""
        self._accepted = self._rejected = self._invalid = self._struck = self._answers = 0
        self._batches = Batches(
            self._process,
            seconds=batch_seconds,
            outcomes=batch_outcomes,
            wall=self._wall,
            base_url=lambda: self.base_url,
            seed=seed,
        )
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()

    def __repr__(self) -> str:
        where = self.base_url if self._server is not None else "closed"
        return f"MessagesServer({where}, received={self.received})"

    @property
    def base_url(self) -> str:
        """Where it listens, as the SDK's `base_url`.

        Raises:
            SpecError: it does not listen.
        """
        if self._server is None:
            raise SpecError(
                "the messages server does not listen; use it as `async with MessagesServer() as server`."
            )
        return f"http://{self._host}:{self._server.sockets[0].getsockname()[1]}"

    @property
    def requests(self) -> list[Call]:
        """The last requests for messages that could be read, oldest first."""
        return list(self._kept)

    @property
    def connections(self) -> int:
        """Connections that are open."""
        return len(self._connections)

    def ledger(self) -> Ledger:
        """Return what was done up to now; batches whose time has come are worked off first."""
        self._batches.settle(self._now())
        return Ledger(
            accepted=self._accepted,
            rejected=self._rejected,
            invalid=self._invalid,
            faults=self._struck,
            live=self._live.counts(),
            batched=self._batched.counts(),
        )

    async def __aenter__(self) -> MessagesServer:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._serve, self._connections), self._host, self._port, backlog=4096
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        server, self._server = self._server, None
        server.close()
        tasks = [each.task for each in self._connections if each.task is not None]
        for connection in list(self._connections):
            connection.reset()
        await server.wait_closed()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- every request -----------------------------------------------------------------------------------------

    def _serve(self, request: HTTPRequest, connection: Connection) -> Answer:
        self._answers += 1
        request_id = b"req_%016d" % self._answers
        path = request.path.partition("?")[0]
        try:
            if path == "/v1/messages" and request.method == "POST":
                return self._message(request, connection, request_id)
            if path == "/ledger":
                return respond(200, self._headers(request_id), msgspec.json.encode(self.ledger().record()))
            self._check_key(request)
            return self._other(request, path, request_id)
        except ProblemError as problem:
            return self._refuse(problem, request_id, self._headers(request_id))

    def _other(self, request: HTTPRequest, path: str, request_id: bytes) -> bytes:
        now = self._now()
        found: Any
        match request.method, path.strip("/").split("/")[1:]:
            case "POST", ["messages", "count_tokens"]:
                found = {"input_tokens": self._checks.count(request.body)}
            case "POST", ["messages", "batches"]:
                found = self._batches.create(request.body, now)
            case "GET", ["messages", "batches"]:
                found = self._batches.list(now)
            case "GET", ["messages", "batches", id]:
                found = self._batches.retrieve(id, now)
            case "POST", ["messages", "batches", id, "cancel"]:
                found = self._batches.cancel(id, now)
            case "GET", ["messages", "batches", id, "results"]:
                lines = self._batches.results(id, now)
                return respond(200, self._headers(request_id), lines, b"application/x-jsonl")
            case "GET", ["models"]:
                found = {"data": [_describe(model) for model in self._models or ()], "has_more": False}
            case _:
                raise ProblemError("not_found_error", "Not found")
        return respond(200, self._headers(request_id), msgspec.json.encode(found))

    def _check_key(self, request: HTTPRequest) -> None:
        if self._api_key is None:
            return
        found = request.headers.get("x-api-key")
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        if found is None and not bearer:
            raise ProblemError("authentication_error", "x-api-key header is required")
        if self._api_key not in (found, bearer):
            raise ProblemError("authentication_error", "invalid x-api-key")

    def _refuse(self, problem: ProblemError, request_id: bytes, headers: bytes) -> bytes:
        if problem.retry_after is not None:
            headers += b"retry-after: %d\r\n" % problem.retry_after
        return respond(problem.status, headers, problem.body(request_id.decode()))

    # --- a request for a message -------------------------------------------------------------------------------

    def _message(self, request: HTTPRequest, connection: Connection, request_id: bytes) -> Answer:
        self.received += 1
        try:
            self._check_key(request)
            if len(request.body) > MAX_BODY:
                raise ProblemError("request_too_large", "Request exceeds the maximum size")
            call, body = self._checks.call(request.body, self.received, request)
        except ProblemError:
            self._invalid += 1
            raise
        self._kept.append(call)
        buckets = self._buckets_of(call.model)
        fault = self._faults(call.number, call) if self._faults is not None else None
        if fault is not None:
            self._struck += 1
            if fault.early:
                return self._strike(fault, connection, buckets, request_id)
        try:
            served = self._let_in(call, body, buckets, request_id)
        except ProblemError as problem:
            self._rejected += problem.status in (429, 529)
            return self._refuse(problem, request_id, self._headers(request_id, buckets))
        wait = self._latency.sample(self._random)
        reply = served.reply
        if not wait and fault is None and (type(reply) is str or not inspect.isawaitable(reply)):
            return self._respond(served, reply).whole()
        # Counted from now on: the coroutine begins in the loop's next turn.
        self.in_flight += 1
        buckets.in_flight += 1
        connection.when_answered = lambda: self._answered(buckets)
        return self._respond_later(served, fault, wait, connection)

    def _answered(self, buckets: Buckets) -> None:
        self.in_flight -= 1
        buckets.in_flight -= 1

    def _strike(
        self, fault: ServerFault, connection: Connection, buckets: Buckets, request_id: bytes
    ) -> Answer:
        headers = self._headers(request_id, buckets)
        problem = fault.problem()
        if problem is not None:
            return self._refuse(problem, request_id, headers)
        return strike(fault, connection, headers)

    def _let_in(self, call: Call, body: Body, buckets: Buckets, request_id: bytes) -> _Served:
        sections = call.sections
        assert sections is not None
        if self._capacity is not None and self.in_flight >= self._capacity:
            raise ProblemError("overloaded_error", "Overloaded")
        now = self._now()
        plan = self._plan(sections, body, now)
        counted = sections.tokens - plan.read
        buckets.check(counted, now)
        buckets.take(counted, now)
        self._accepted += 1
        return _Served(call, sections, plan, buckets, request_id, self._reply(call))

    def _plan(self, sections: Sections, body: Body, now: float) -> CachePlan:
        prefixes = self._chains.prefixes(sections, body) if self._cache is not None else None
        return NOTHING if self._cache is None or prefixes is None else self._cache.plan(prefixes, now)

    def _reply(self, call: Call) -> Scripted | Awaitable[Scripted]:
        if self._replies is None:
            assert self._function is not None
            made: Scripted | Awaitable[Scripted] = self._function(call)
            return made
        for reply in self._replies:
            return reply
        raise ProblemError(
            "api_error",
            f"the script of the test server has no reply for request {call.number}; give it more, or a function.",
        )

    async def _respond_later(
        self, served: _Served, fault: ServerFault | None, wait: float, connection: Connection
    ) -> None:
        try:
            if wait:
                await self._sleep(wait)
            reply = served.reply
            outgoing = self._respond(served, await reply if inspect.isawaitable(reply) else reply)
            if fault is None:
                connection.write(outgoing.whole())
                await connection.drain()
            else:
                await spoil(fault, connection, outgoing, self._sleep)
        except ProblemError as problem:
            connection.write(self._refuse(problem, served.request_id, self._headers(served.request_id)))

    def _respond(self, served: _Served, reply: Scripted) -> Outgoing:
        message, usage = self._write(served.call, served.sections, served.plan, reply)
        now = self._now()
        if self._cache is not None and served.plan.entries:
            self._cache.commit(served.plan, now)
        served.buckets.take_output(usage.output, now)
        self._live.charge(usage)
        headers = self._headers(served.request_id, served.buckets)
        if served.call.stream:
            return Outgoing(headers, message.events(usage, self._delta_characters), True)
        return Outgoing(headers, [msgspec.json.encode(message.record(usage))], False)

    def _write(
        self, call: Call, sections: Sections, plan: CachePlan, reply: Scripted
    ) -> tuple[Message, UsageCounts]:
        room = None if self._context is None else self._context - sections.tokens
        message = fit(reply, call, room, f"msg_{self._answers:016d}")
        fresh = sections.tokens - plan.read - plan.written - plan.written_hour
        usage = UsageCounts(fresh, plan.written, plan.written_hour, plan.read, message.output_tokens)
        return message, usage

    # A request of a batch: neither limits nor faults nor latency.
    def _process(self, raw: bytes) -> dict[str, Any]:
        self._answers += 1
        call, body = self._checks.call(raw, 0, None)
        sections = call.sections
        assert sections is not None
        now = self._now()
        plan = self._plan(sections, body, now)
        reply = self._reply(call)
        if inspect.isawaitable(reply):
            raise ProblemError("api_error", "an async function cannot reply to requests of a batch.")
        message, usage = self._write(call, sections, plan, reply)
        if self._cache is not None:
            self._cache.commit(plan, now)
        self._batched.charge(usage)
        record = message.record(usage)
        record["usage"]["service_tier"] = "batch"
        return record

    # --- limits and headers ------------------------------------------------------------------------------------

    def _buckets_of(self, model: str) -> Buckets:
        fitting = [name for name in self._limits if model.startswith(name)]
        family = max(fitting, key=len, default="")
        found = self._buckets.get(family)
        if found is None:
            found = Buckets(self._limits.get(family, Limits()), self._now())
            self._buckets[family] = found
        return found

    def _headers(self, request_id: bytes, buckets: Buckets | None = None) -> bytes:
        now = self._now()
        wall = self._wall(now)
        lines = b"date: %s\r\nrequest-id: %s\r\n" % (_date(int(wall)), request_id)
        return lines if buckets is None else lines + buckets.headers(now, wall)

    def _wall(self, now: float) -> float:
        return self._epoch + now


def _replies(reply: Replies | None) -> tuple[Callable[[Call], Any] | None, Iterator[Scripted] | None]:
    if reply is None:
        return echo, None
    if callable(reply):
        return reply, None
    if isinstance(reply, (str, ServerReply)):
        return lambda call: reply, None
    return None, iter(reply)


@lru_cache(maxsize=16)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


def _describe(model: str) -> dict[str, Any]:
    return {
        "type": "model",
        "id": model,
        "display_name": model,
        "created_at": "2026-01-01T00:00:00Z",
        "lifecycle": "active",
    }
