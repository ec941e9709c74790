"""Agent: an actor that talks to a model. It has a system prompt, tools and a conversation.

    class Critic(Agent):
        model, tools = "claude-sonnet-5-5", [count_words]

        @on(Draft)
        async def review(self, draft: Draft) -> Review:
            return Review(await self.complete(f"Review: {draft.text}"))

What a handler does to the conversation is a transaction: it is committed when the handler ends well, before its reply
goes out, and taken back when it fails. The next incarnation goes on from the last commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache
from typing import Any, ClassVar, Literal

import msgspec

from avm.actors.actor import Actor, on
from avm.actors.event import Request, event
from avm.actors.ref import Ref
from avm.actors.signals import LlmReply, ToolResult
from avm.agents.transaction import make_transactions
from avm.agents.turn import play_turn
from avm.errors import ActorDead, ProviderError, ToolDefinitionError, ToolError, VMError
from avm.io.request import (
    MAX_TOKENS,
    PLAIN,
    CallPolicy,
    CallTool,
    Complete,
    Completion,
    ModelRequest,
    ToolCall,
    ToolOutcome,
    encode_fragment,
)
from avm.io.stream import ModelStream, Piece, Restart
from avm.memory import Conversation, Roots, Store
from avm.supervision import Backoff
from avm.tools import Tool, describe_all

DEFAULT_MODEL = "claude-sonnet-5-5"


@event(tag="avm.Say")
class Say(Request[str]):
    """Say something to an agent; its answer is the reply. A plain str does the same."""

    text: str


class Agent(Actor):
    """An actor with a model. With no handlers of its own it answers what it is told: `ask(ref, "Hello")`.

    Class attributes, which an instance may set too:
        model: which model serves it.
        system: its system prompt.
        tools: what the model may call, made by `@tool`.
        max_steps: model replies in one turn before it is given up.
        max_tokens: of one reply.
        params: further parameters of the Messages API for each call, such as `{"thinking": {...}}`.
        policy: how the pool may serve the calls: what it may keep, share, put off or try elsewhere.
        reply_timeout: seconds to wait for the pool's reply to a model call, None for no limit. Calls that may wait for
            a provider's batch have none.
        state: "resume" starts a new incarnation from the last committed conversation, "fresh" from none.
    """

    model: str = DEFAULT_MODEL
    system: str = ""
    tools: Sequence[Tool] = ()
    max_steps: int = 50
    max_tokens: int = MAX_TOKENS
    params: Mapping[str, Any] = {}
    policy: CallPolicy = PLAIN
    reply_timeout: float | None = 600.0
    state: Literal["resume", "fresh"] = "resume"

    # Faults of models are slow to pass: a longer window than plain actors have, and a pause before each restart.
    restart_window: ClassVar[tuple[int, float]] = (3, 300.0)
    restart_backoff: ClassVar[Backoff] = Backoff(min=0.1, max=30.0, jitter=0.5)

    _conversation: Conversation | None = None
    _committed: Conversation | None = None
    _writing: Future[None] | None = None
    _in_turn: bool = False
    _sent: int = 0
    _front: Ref | None = None
    _tool_gate: Ref | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _check(cls)
        make_transactions(cls)

    @on(Say)
    async def say(self, said: Say) -> str:
        """Answer what was said, as one turn of the conversation."""
        return await self.chat(said.text)

    @on(str)
    async def say_text(self, text: str) -> str:
        """Answer plain text, as `Say`."""
        return await self.chat(text)

    async def chat(self, text: str) -> str:
        """Play one whole turn: the text, then model and tools until the model has its answer. Returns the answer.

        Raises:
            TooManySteps: `max_steps` were not enough. ProviderError: a model call failed. Either way the
            conversation is as it was before the turn.
        """
        if self._in_turn:
            raise VMError(f"{self.path} is in a turn already; await one chat() before the next.")
        self._in_turn = True
        try:
            await self._wait_room()
            begun = self._prefixed(self.conversation).append({"role": "user", "content": text})
            self._conversation, answer = await play_turn(self, begun)
            return answer
        finally:
            self._in_turn = False

    async def complete(self, prompt: str, system: str | None = None, *, sample: int = 0) -> str:
        """Ask the model once, outside the conversation and without tools; return its answer.

        Args:
            system: in place of the agent's own system prompt.
            sample: where equal calls may share a reply (`policy`), those of another number do not.
        """
        return (await self._ask_pool(self._prompt(prompt, system, sample))).text

    async def stream(self, prompt: str, system: str | None = None) -> AsyncIterator[Piece | Restart]:
        """As `complete`, but give the reply as it comes: pieces of text, and where it begins anew if it was cut.

        Leaving the loop early stops the call.
        """
        stream = ModelStream()
        asked = asyncio.ensure_future(self._ask_pool(self._prompt(prompt, system), stream))
        asked.add_done_callback(_heard)
        try:
            async for piece in stream:
                yield piece
        finally:
            asked.cancel()

    @property
    def conversation(self) -> Conversation:
        """All that was said, as an immutable value; what is assigned is committed when the handler ends well."""
        conversation = self._conversation
        if conversation is None:
            roots = self._roots()
            if roots is not None and self.state == "resume":
                conversation = roots.get(self.root_name)
            if conversation is None:
                conversation = self.new_conversation()
            else:
                self._sent = conversation.size
            self._conversation = self._committed = conversation
        return conversation

    @conversation.setter
    def conversation(self, conversation: Conversation) -> None:
        self._conversation = conversation

    @property
    def root_name(self) -> str:
        """What the conversation's root is committed under; the path, unless a subclass says otherwise."""
        return self.path

    def new_conversation(self) -> Conversation:
        """Return an empty conversation with the agent's system prompt and tools, in the VM's store."""
        described: list[dict[str, Any]] = msgspec.json.decode(self._tools_json() or b"[]")
        return Conversation(self._store(), self.system, described)

    async def ask_model(self, conversation: Conversation, stream: ModelStream | None = None) -> Completion:
        """Make one model call with this conversation; `stream` hears the reply while it comes."""
        request = ModelRequest(
            model=self.model,
            conversation=conversation,
            system=self.system,
            tools=self._tools_json(),
            max_tokens=self.max_tokens,
            agent=self.path,
            kind=type(self).__name__,
            params=self._params_json(),
        )
        return await self._ask_pool(request, stream)

    async def ask_tool(self, call: ToolCall, position: int) -> ToolOutcome:
        """Make one tool call. Its failures are outcomes too: the model reads them and goes on."""
        for tool in self.tools:
            if tool.name == call.name:
                break
        else:
            known = ", ".join(t.name for t in self.tools) or "none"
            return ToolOutcome(call, f"There is no tool {call.name!r}; the tools are: {known}.", failed=True)
        request = CallTool(tool, call, self._priority(), self.path, "", position)
        try:
            with self.waiting(ToolResult(call.name)):
                outcome: ToolOutcome = await self.ask(self._tools(), request, timeout=None)
                return outcome
        except ToolError as error:
            return ToolOutcome(call, str(error), failed=True)

    def commit(self) -> Future[None] | None:
        """Make the conversation the one a restart resumes from; done when a handler ends well.

        Returns:
            With a home, what is done when it is on disk: the reply waits for it. None if there is nothing to wait for.

        Raises:
            ActorDead: this agent was killed while its handler went on; the root is its successor's now (S94).
        """
        conversation = self._conversation
        writing = self._writing
        if conversation is None or conversation is self._committed:
            # A handler may have committed by itself: its reply waits for that too.
            return writing if writing is not None and not _is_written(writing) else None
        if not self.is_alive():
            raise ActorDead(f"{self.path} has ended; its handler may not commit a conversation any more.")
        roots = self._roots()
        future = roots.commit(self.root_name, conversation) if roots is not None else None
        self._committed, self._writing = conversation, future
        return future if future is not None and not _is_written(future) else None

    def roll_back(self) -> None:
        """Go back to the last commit; done when a handler fails."""
        self._conversation = self._committed

    def commit_failed(self) -> None:
        """Go back to the last commit that is on disk, which the next handler reads; done when one cannot be written."""
        self._conversation = self._committed = self._writing = None

    def is_asleep(self) -> bool:
        """Tell whether the conversation is on disk only; the next handler reads it back before it begins."""
        conversation = self._conversation
        if conversation is None and self.state == "resume":
            roots = self._roots()
            conversation = roots.get(self.root_name) if roots is not None and roots.is_durable else None
        return conversation is not None and conversation.is_asleep

    async def wake(self) -> None:
        """Read the conversation back from disk, in another thread."""
        roots, conversation = self._roots(), self.conversation
        if roots is not None and conversation is not None:
            await roots.wake(conversation)

    async def _ask_pool(self, request: ModelRequest, stream: ModelStream | None = None) -> Completion:
        self._count_sent(request)
        call = Complete(request, self._priority(), self.policy, stream)
        # A batch may take a day.
        timeout = None if self.policy.batch and call.priority == "background" else self.reply_timeout
        try:
            with self.waiting(LlmReply(request.model)):
                return await self.ask(self._pool(), call, timeout=timeout)
        except BaseException as error:
            # Whoever reads the stream must hear it too, also if the pool itself is gone.
            if stream is not None:
                stream.fail(
                    error if isinstance(error, Exception) else ProviderError("the call was given up.")
                )
            raise

    def _prompt(self, prompt: str, system: str | None, sample: int = 0) -> ModelRequest:
        return ModelRequest(
            model=self.model,
            messages=(encode_fragment({"role": "user", "content": prompt}),),
            system=self.system if system is None else system,
            max_tokens=self.max_tokens,
            agent=self.path,
            kind=type(self).__name__,
            params=self._params_json(),
            sample=sample,
        )

    def _priority(self) -> str:
        return self.effective_priority

    def _pool(self) -> Ref:
        front = self._front
        if front is None:
            front = self._front = self._needed("io", "the pool's front")
        return front

    def _tools(self) -> Ref:
        gate = self._tool_gate
        if gate is None:
            gate = self._tool_gate = self._needed("tools", "the tool gate")
        return gate

    def _needed(self, service: str, what: str) -> Ref:
        try:
            found: Ref = self.service(service)
        except KeyError:
            raise VMError(
                f"{self.path} needs the I/O pool, and its VM has no service {service!r}. Start it in a VM, or give "
                f"the Kernel services={{{service!r}: ref of {what}}}."
            ) from None
        return found

    # What is sent again was sent before: the store's account of requests shows what a resent history costs.
    def _count_sent(self, request: ModelRequest) -> None:
        conversation = request.conversation
        if conversation is not None:
            size = conversation.size
            conversation.store.sent(size, max(0, size - self._sent))
            self._sent = size

    # A system prompt or tools other than those the conversation began with take their place.
    def _prefixed(self, conversation: Conversation) -> Conversation:
        if conversation.system == self.system and conversation.tools_json == (self._tools_json() or b"[]"):
            return conversation
        return self.new_conversation().extend(conversation)

    # Back-pressure: a turn makes a conversation longer, so it begins when there is room.
    async def _wait_room(self) -> None:
        store = self._store()
        if store is not None and not store.shelf.fits(0):
            await store.wait_room()

    def _params_json(self) -> bytes:
        return msgspec.json.encode(self.params, order="deterministic") if self.params else b""

    def _tools_json(self) -> bytes:
        tools = self.tools
        return _described(tuple(tools)) if tools else b""

    def _store(self) -> Store | None:
        store: Store | None = self.service("store", None)
        return store

    def _roots(self) -> Roots | None:
        roots: Roots | None = self.service("roots", None)
        return roots


# Its error is the stream's, which is read.
def _heard(asked: asyncio.Future[Completion]) -> None:
    if not asked.cancelled():
        asked.exception()


def _is_written(future: Future[None]) -> bool:
    return future.done() and future.exception() is None


def _check(cls: type[Agent]) -> None:
    names: set[str] = set()
    for each in cls.tools:
        if not isinstance(each, Tool):
            raise ToolDefinitionError(
                f"{cls.__qualname__}.tools must hold tools made by @tool, got {each!r}. Mark the function with @tool."
            )
        if each.name in names:
            raise ToolDefinitionError(
                f"{cls.__qualname__}.tools has two tools called {each.name!r}; rename one."
            )
        names.add(each.name)
    if cls.state not in ("resume", "fresh"):
        raise ToolDefinitionError(f"{cls.__qualname__}.state must be 'resume' or 'fresh', got {cls.state!r}.")
    if type(cls.max_steps) is not int or cls.max_steps < 1:
        raise ToolDefinitionError(f"{cls.__qualname__}.max_steps must be 1 or more, got {cls.max_steps!r}.")


@lru_cache(maxsize=256)
def _described(tools: tuple[Tool, ...]) -> bytes:
    return describe_all(tools)


make_transactions(Agent)
