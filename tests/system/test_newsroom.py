"""A whole tree of agents on the scripted provider: it works, and whatever crashes, it works again.

The newsroom is that of the tutorial: a critic and an editor under rest_for_one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from avm import VM, Agent, ChildSpec, Request, child, event, on, pipeline, run, supervisor, tool
from avm.errors import ActorExited, ProviderError, Refused, VMError
from avm.io.providers import ScriptedProvider
from avm.io.request import ModelRequest
from avm.supervision import Backoff


@event(tag="tests.newsroom.Review")
class Review:
    verdict: str


@event(tag="tests.newsroom.Page")
class Page:
    text: str


@event(tag="tests.newsroom.Draft")
class Draft(Request[Review]):
    text: str


@event(tag="tests.newsroom.Edit")
class Edit(Request[Page]):
    review: Review


@tool(timeout=5)
async def count_words(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())


class Critic(Agent):
    """Reviews drafts."""

    tools = [count_words]  # noqa: RUF012 - as users write it

    def __init__(self, tone: str) -> None:
        self.tone = tone

    @on(Draft)
    async def review(self, draft: Draft) -> Review:
        if draft.text == "libel":
            raise RuntimeError("libel")
        return Review(await self.complete(f"Be {self.tone}. Review: {draft.text}"))


class Editor(Agent):
    """Makes pages of reviews."""

    @on(Edit)
    async def edit(self, edit: Edit) -> Page:
        return Page(await self.chat(edit.review.verdict))

    @on(Review)
    async def edit_now(self, review: Review) -> Page:
        return await self.edit(Edit(review))


def newsroom(tone: str, **options: Any) -> ChildSpec:
    return supervisor(
        "newsroom",
        strategy="rest_for_one",
        # Agents pause before a restart; here it is at once.
        **{"max_restarts": 3, "max_seconds": 60, "backoff": Backoff(), **options},
        children=[child("critic", Critic, tone), child("editor", Editor, restart="transient", shutdown=10)],
    )


def vm_of(tree: ChildSpec, script: Any = None, **options: Any) -> VM:
    return VM(tree, memory="64MB", provider=ScriptedProvider(script), observers=[], **options)


def shout(request: ModelRequest) -> str:
    """A model that repeats what it was told last, in capitals."""
    return str(list(request.history())[-1]["content"]).upper()


def test_drafts_flow_through_critic_and_editor_in_their_order() -> None:
    async def main(drafts: list[Draft]) -> list[str]:
        async with vm_of(newsroom("kind"), shout) as vm:
            return [page.text async for page in pipeline(vm["critic"], vm["editor"], limit=8)(drafts)]

    pages = run(main, [Draft(f"draft {n}") for n in range(20)])

    assert pages == [f"BE KIND. REVIEW: DRAFT {n}" for n in range(20)]


@pytest.mark.parametrize(
    "crashed, restarted",
    [("critic", {"critic", "editor"}), ("editor", {"editor"})],
)
def test_a_crash_restarts_the_failed_child_and_its_younger_siblings(
    run: Any, crashed: str, restarted: set[str]
) -> None:
    """S64 rest_for_one, in a VM; the refs held before reach the new incarnations."""

    async def body() -> None:
        async with vm_of(newsroom("kind"), shout) as vm:
            refs = {name: vm[name] for name in ("critic", "editor")}
            pids = {name: ref.pid for name, ref in refs.items()}
            vm.kernel.exit(refs[crashed], RuntimeError("struck"))
            await vm.kernel.idle()

            assert {name for name, ref in refs.items() if ref.pid != pids[name]} == restarted
            assert (await refs["critic"].ask(Draft("again"))).verdict == "BE KIND. REVIEW: AGAIN"
            assert vm.status().restarts == len(restarted)

    run(body())


def test_who_asked_a_child_that_crashed_is_told_and_can_ask_again(run: Any) -> None:
    """S14."""

    async def body() -> str:
        async with vm_of(newsroom("kind"), shout) as vm:
            with pytest.raises(ActorExited, match="RuntimeError: libel"):
                await vm.ask("critic", Draft("libel"))
            await vm.kernel.idle()
            return (await vm.ask("critic", Draft("praise"))).verdict

    assert run(body()) == "BE KIND. REVIEW: PRAISE"


def test_an_agents_conversation_outlives_its_crash(run: Any) -> None:
    """A turn is a transaction: the next incarnation goes on from the last commit."""

    async def body() -> list[str]:
        async with vm_of(newsroom("kind"), shout) as vm:
            await vm.ask("editor", Edit(Review("one")))
            vm.kernel.exit(vm["editor"], RuntimeError("struck"))
            await vm.kernel.idle()
            await vm.ask("editor", Edit(Review("two")))
            return [m["content"] for m in vm.roots.get("newsroom/editor") or ()]

    assert run(body()) == ["one", "ONE", "two", "TWO"]


def test_a_crash_of_the_io_pool_fails_the_call_and_the_next_one_works(run: Any) -> None:
    """The system tree restarts its own; agents hold refs, not pids."""

    async def body() -> str:
        async with vm_of(newsroom("kind"), shout) as vm:
            assert (await vm.ask("critic", Draft("a"))).verdict
            vm.kill("avm.io")
            await vm.kernel.idle()
            return (await vm.ask("critic", Draft("b"))).verdict

    assert run(body()) == "BE KIND. REVIEW: B"


def test_a_model_that_refuses_crashes_the_agent_and_no_more(run: Any) -> None:
    """An error of a call is the agent's to handle; unhandled it is a crash like any other."""
    down = True

    def script(request: ModelRequest) -> str | Exception:
        return Refused("no", "scripted", request.model) if down else shout(request)

    async def body() -> str:
        nonlocal down
        async with vm_of(newsroom("kind"), script) as vm:
            with pytest.raises(ActorExited) as failed:
                await vm.ask("critic", Draft("a"))
            assert isinstance(failed.value.reason, ProviderError)
            down = False
            await vm.kernel.idle()
            return (await vm.ask("critic", Draft("b"))).verdict

    assert run(body()) == "BE KIND. REVIEW: B"


def test_crashes_that_do_not_stop_escalate_to_the_vm(run: Any) -> None:
    """S67, S91: rest_for_one gives up, and the VM ends with its words."""

    async def body() -> None:
        async with vm_of(newsroom("kind", max_restarts=2), shout) as vm:
            while True:
                vm.tell("critic", Draft("libel"))
                await vm.kernel.idle()

    with pytest.raises(VMError, match=r"supervisor 'newsroom' gave up: 3 restarts in .* RuntimeError: libel"):
        run(body())


def test_a_chat_calls_tools_through_the_pool(run: Any) -> None:
    calls = {"id": "1", "name": "count_words", "arguments": '{"text": "three short words"}'}
    replies: list[Any] = [{"role": "assistant", "content": "", "tool_calls": [calls]}, "It has three."]

    async def body() -> tuple[str, int]:
        async with vm_of(newsroom("kind"), replies) as vm:
            answer = await vm.ask("critic", "How long is it?")
            io = vm.status().io
            assert io is not None
            return answer, io.tool_calls

    assert run(body()) == ("It has three.", 1)


WRECKS: list[tuple[str, Callable[[VM], None]]] = [
    ("newsroom", lambda vm: vm.kill("newsroom")),
    ("system", lambda vm: vm.kill("system")),
]


@pytest.mark.parametrize("top, wreck", WRECKS)
def test_the_end_of_either_tree_is_the_end_of_the_vm(run: Any, top: str, wreck: Callable[[VM], None]) -> None:
    """S91."""

    async def body() -> None:
        async with vm_of(newsroom("kind"), shout) as vm:
            wreck(vm)
            await vm.wait_stopped()

    with pytest.raises(VMError, match=rf"'{top}' ended \(killed\)"):
        run(body())
