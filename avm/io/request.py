"""Requests to the I/O pool and their replies, as plain values in the shape of the Messages API.

A message is neutral: `{"role": "user" | "assistant" | "tool", "content": str}`, with `tool_calls` (a list of `id`,
`name` and `arguments`, the text exactly as the model wrote it) on an assistant's and `tool_call_id` and `name` on a
tool's. A *fragment* is one message as compact JSON; replies carry the fragment: what a model said is kept as it came.

A request holds the history as a `Conversation` value: its root names it, and nothing of it is encoded again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import attrs
import blake3
import msgspec

from avm.actors.event import ATOMS, Request, event
from avm.errors import SpecError
from avm.io.limits import RateLimits
from avm.memory import Conversation, Digest

if TYPE_CHECKING:
    from avm.io.board import GateStatistics
    from avm.io.stream import ModelStream

Message = dict[str, Any]
"""One neutral message."""

MAX_TOKENS = 4096
"""Tokens a model may write in one reply unless its agent says otherwise."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def encode_fragment(message: object) -> bytes:
    """Return a message as a fragment; keeps the order of keys."""
    try:
        return _encode(message)
    except UnicodeEncodeError:
        # Half a surrogate pair, which recorded texts do hold, is no UTF-8: it is escaped.
        return json.dumps(message, separators=(",", ":")).encode()


def decode_fragment(fragment: bytes) -> Message:
    """Return the message of a fragment; the caller's own."""
    try:
        return _decode(fragment)
    except (msgspec.DecodeError, UnicodeDecodeError):
        message: Message = json.loads(fragment)
        return message


@attrs.frozen(slots=True)
class ToolCall:
    """A model wants a tool; `arguments` is the text as the model wrote it."""

    id: str
    name: str
    arguments: str


def tool_calls(message: Message) -> tuple[ToolCall, ...]:
    """Return the tool calls of an assistant's message, in its order."""
    found = message.get("tool_calls")
    if not found:
        return ()
    return tuple(ToolCall(call["id"], call["name"], call["arguments"]) for call in found)


@attrs.frozen(slots=True)
class Usage:
    """Tokens of one call, as the provider counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0


@attrs.frozen(slots=True)
class Timings:
    """When a call was asked for, sent to the provider (the last time), first heard of and answered; seconds on the
    VM's clock."""

    asked: float
    started: float
    ended: float
    first: float | None = None
    """When the response began; None if nobody looked."""


@attrs.frozen(slots=True, kw_only=True)
class Hints:
    """What the pool tells the provider of a call besides what is asked: how to use its prompt cache."""

    system: bool = False
    """Whether tools and system prompt are worth caching."""
    marks: tuple[int, ...] = ()
    """Numbers of messages after which what is before is worth caching; ascending."""
    hour: bool = False
    """For an hour instead of five minutes."""
    slot: int | None = None
    """The slot of a local server to use."""


@attrs.frozen(slots=True, kw_only=True)
class CallPolicy:
    """How the pool may serve a call.

    Raises:
        SpecError: a value that cannot be right; says which.
    """

    cache: float | None = None
    """Seconds for which the reply may be given to equal calls too; None keeps none and takes none."""
    coalesce: bool = False
    """Whether equal calls under way may be one."""
    batch: bool = False
    """Whether a `background` call may wait for a provider's batch, up to a day."""
    hedge: bool = False
    """Whether a `user` call that is slow to begin may be made a second time."""
    fallbacks: tuple[str, ...] = ()
    """Models to try in turn when the model's provider fails."""
    retry_for: float = 300.0
    """Seconds from its first attempt within which a call that failed is tried again."""
    prompt_cache: Literal["auto", "hour", "off"] = "auto"
    """Whether the pool places cache breakpoints: "hour" for those that live an hour."""

    def __attrs_post_init__(self) -> None:
        if self.cache is not None and not self.cache > 0:
            raise SpecError(f"CallPolicy: cache must be seconds above 0, or None, got {self.cache!r}.")
        if not self.retry_for >= 0:
            raise SpecError(f"CallPolicy: retry_for must be seconds of 0 or more, got {self.retry_for!r}.")
        if isinstance(self.fallbacks, str) or not all(isinstance(model, str) for model in self.fallbacks):
            raise SpecError(
                f"CallPolicy: fallbacks must be a tuple of names of models, got {self.fallbacks!r}."
            )
        if self.prompt_cache not in ("auto", "hour", "off"):
            raise SpecError(
                f"CallPolicy: prompt_cache must be 'auto', 'hour' or 'off', got {self.prompt_cache!r}."
            )


PLAIN = CallPolicy()
"""The policy of calls that say nothing."""


@attrs.frozen(slots=True)
class ModelRequest:
    """One call of a model.

    `conversation` is the history and `messages` are fragments that follow it. `tools` is the JSON array of tools,
    `params` a JSON object of further parameters of the Messages API (`tool_choice`, `thinking`, ...), as bytes.
    `sample` tells calls apart that are equal otherwise. `agent` is the path of who asks, `kind` its class, `label`
    what the conversation is called where it comes from, `hints` what the pool adds; these four are no part of the
    digest.
    """

    model: str
    conversation: Conversation | None = None
    messages: tuple[bytes, ...] = ()
    system: str = ""
    tools: bytes = b""
    max_tokens: int = MAX_TOKENS
    agent: str = ""
    label: str = ""
    params: bytes = b""
    sample: int = 0
    kind: str = ""
    hints: Hints | None = None

    @property
    def size(self) -> int:
        """Bytes of system prompt, tools and messages, about."""
        size = len(self.system) + len(self.tools) + sum([len(fragment) for fragment in self.messages])
        # The conversation's own prompt counts in its size; the request's takes its place.
        history = self.conversation
        return size if history is None else size + max(0, history.size - history.prefix_size)

    def hinted(self, hints: Hints) -> ModelRequest:
        """Return it with hints. As `attrs.evolve`, written out: this is done for each call."""
        return ModelRequest(
            self.model,
            self.conversation,
            self.messages,
            self.system,
            self.tools,
            self.max_tokens,
            self.agent,
            self.label,
            self.params,
            self.sample,
            self.kind,
            hints,
        )

    @property
    def wants_variety(self) -> bool:
        """Tell whether equal requests are meant to have different replies: a parameter of sampling is set."""
        return any(name in self.params for name in (b'"temperature"', b'"top_p"', b'"top_k"'))

    @property
    def position(self) -> int:
        """How many messages the model gets: the place of its reply in the conversation."""
        history = self.conversation
        return len(self.messages) if history is None else len(history) + len(self.messages)

    def history(self) -> Iterator[Message]:
        """Go through all messages, oldest first; each is the caller's own."""
        if self.conversation is not None:
            yield from self.conversation
        for fragment in self.messages:
            yield decode_fragment(fragment)

    def digest(self) -> Digest:
        """Return the canonical digest: equal for requests that ask the same of the same model, whoever asks.

        A digest of digests: the history enters by its root.
        """
        hasher = blake3.blake3()
        parts = [self.model.encode(), self.system.encode("utf-8", "surrogatepass"), self.tools]
        parts.extend((b"%d %d" % (self.max_tokens, self.sample), self.params))
        parts.append(self.conversation.root.bytes if self.conversation is not None else b"")
        for part in (*parts, *self.messages):
            hasher.update(len(part).to_bytes(8, "big"))
            hasher.update(part)
        return Digest(hasher.digest())


@attrs.frozen(slots=True)
class Completion:
    """A model's reply. `fragment` is its message; `source` says where the reply came from: "provider", "cache",
    "coalesced" or "batch"."""

    fragment: bytes
    stop_reason: str = "end_turn"
    model: str = ""
    usage: Usage | None = None
    """None where the provider does not count."""
    provider: str = ""
    request_id: str = ""
    source: str = "provider"
    timings: Timings | None = None
    attempts: int = 1
    """How often the provider was asked until it answered."""
    limits: RateLimits | None = attrs.field(default=None, eq=False)
    """What the response said of the provider's limits."""

    def timed(self, timings: Timings) -> Completion:
        """Return it with its timings."""
        return self._with(timings, self.limits)

    def told(self, limits: RateLimits) -> Completion:
        """Return it with what the response says of the provider's limits."""
        return self._with(self.timings, limits)

    # As `attrs.evolve`, written out: this is done for each call.
    def _with(self, timings: Timings | None, limits: RateLimits | None) -> Completion:
        return Completion(
            self.fragment,
            self.stop_reason,
            self.model,
            self.usage,
            self.provider,
            self.request_id,
            self.source,
            timings,
            self.attempts,
            limits,
        )

    @property
    def digest(self) -> Digest:
        """The blake3 of the message as it came."""
        return Digest(blake3.blake3(self.fragment).digest())

    @property
    def message(self) -> Message:
        """The neutral message; the caller's own."""
        return decode_fragment(self.fragment)

    @property
    def text(self) -> str:
        """What the model said."""
        return str(self.message["content"])

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tools the model wants, in its order."""
        return tool_calls(self.message)


@attrs.frozen(slots=True)
class ToolOutcome:
    """What a tool call came to. `content` is what the model reads, also when the tool `failed`.

    `cut` counts the characters that were left out. `fragment` is set by tools that give the whole message.
    """

    call: ToolCall
    content: str
    failed: bool = False
    cut: int = 0
    seconds: float = 0.0
    fragment: bytes | None = None

    @property
    def message(self) -> Message:
        """The neutral message; the caller's own."""
        if self.fragment is not None:
            return decode_fragment(self.fragment)
        message: Message = {
            "role": "tool",
            "content": self.content,
            "tool_call_id": self.call.id,
            "name": self.call.name,
        }
        if self.failed:
            message["is_error"] = True
        return message


# All of these are frozen to the bottom: they travel by reference, whatever their size.
ATOMS.update((Conversation, ModelRequest, CallPolicy, Completion, ToolCall, ToolOutcome))


@event(tag="avm.io.Complete")
class Complete(Request[Completion]):
    """Ask the pool for one call of a model."""

    request: ModelRequest
    priority: str = "normal"
    policy: CallPolicy = PLAIN
    stream: ModelStream | None = None
    """Who listens while the reply comes."""


@event(tag="avm.io.CallTool")
class CallTool(Request[ToolOutcome]):
    """Ask the pool for one call of a tool.

    `tool` names in `tool.worker` the class of pool workers that run it. `position` is the place of the result in the
    conversation, `label` as in `ModelRequest`.
    """

    tool: Any
    call: ToolCall
    priority: str = "normal"
    agent: str = ""
    label: str = ""
    position: int = 0


@attrs.frozen(slots=True)
class PoolStatistics:
    """What the pool does and has done. Latencies are seconds from asking to reply, of the last thousand or so calls."""

    provider: str
    requests: int
    """Model calls answered."""
    failed: int
    """Model calls answered with an error."""
    in_flight: int
    queued: int
    latency_p50: float
    latency_p99: float
    workers: int
    tool_calls: int
    tool_failures: int
    tools_in_flight: int
    tools_queued: int
    tool_workers: int
    crashed_workers: int
    input_tokens: int
    """Of model calls that were answered, without those read from or written to a prompt cache."""
    output_tokens: int
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost: float | None = None
    """US dollars by the provider's prices; None if it has none."""
    cache_hits: int = 0
    """Calls answered with a kept reply."""
    coalesced: int = 0
    """Calls answered with an equal call's reply."""
    batched: int = 0
    """Calls answered out of a provider's batch."""
    fallbacks: int = 0
    """Calls that went on to another model."""
    gates: tuple[GateStatistics, ...] = ()

    @property
    def cached_share(self) -> float:
        """The part of all input tokens that was read from the provider's prompt cache."""
        total = self.input_tokens + self.cache_read_tokens + self.cache_write_tokens
        return self.cache_read_tokens / total if total else 0.0


@event(tag="avm.io.PoolStatus")
class PoolStatus(Request[PoolStatistics]):
    """Ask the pool for its statistics."""
