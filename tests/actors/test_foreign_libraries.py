"""Any asyncio or anyio library works inside a handler, because a worker is an ordinary task."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web

from avm.actors import Actor, Kernel, Request, event, on
from avm.errors import ActorExited


@event
class Do(Request[str]):
    what: str


class Handler(Actor):
    """Runs the method named in the event."""

    @on(Do)
    async def do(self, request: Do) -> str:
        return await getattr(self, request.what)()


def ask(run: Any, cls: type[Actor], what: str) -> str:
    async def body() -> str:
        async with Kernel() as kernel:
            return await kernel.ask(await kernel.spawn(cls), Do(what))

    return run(body())


def test_asyncio_timeout_ends_a_section_and_the_handler_goes_on(run) -> None:
    class Timed(Handler):
        async def work(self) -> str:
            try:
                async with asyncio.timeout(0.001):
                    await asyncio.sleep(10)
            except TimeoutError:
                await asyncio.sleep(0)
                return "timed out"
            return "no timeout"

    assert ask(run, Timed, "work") == "timed out"


def test_asyncio_timeout_begun_before_and_ended_after_a_wait_leaves_the_worker_usable(run) -> None:
    class Timed(Handler):
        async def work(self) -> str:
            async with asyncio.timeout(5):
                await asyncio.sleep(0)
            return "in time"

    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Timed)
            assert [await kernel.ask(ref, Do("work")) for _ in range(5)] == ["in time"] * 5

    run(body())


def test_a_task_group_runs_children_and_raises_their_group(run) -> None:
    class Grouped(Handler):
        async def work(self) -> str:
            async def one(n: int) -> int:
                await asyncio.sleep(0)
                return n

            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one(n)) for n in range(3)]
            return str(sum(t.result() for t in tasks))

        async def fail(self) -> str:
            async def bad() -> None:
                await asyncio.sleep(0)
                raise RuntimeError("child failed")

            async with asyncio.TaskGroup() as group:
                group.create_task(bad())
                await asyncio.sleep(10)
            return "unreachable"

    assert ask(run, Grouped, "work") == "3"
    with pytest.raises(ActorExited) as caught:
        ask(run, Grouped, "fail")
    assert isinstance(caught.value.__cause__, ExceptionGroup)


def test_asks_inside_a_task_group_are_answered_side_by_side(run) -> None:
    class Echo(Handler):
        async def back(self) -> str:
            await asyncio.sleep(0)
            return "echo"

    class Grouped(Handler):
        async def work(self) -> str:
            refs = [await self.spawn(Echo) for _ in range(3)]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self.ask(ref, Do("back"))) for ref in refs]
            return " ".join(t.result() for t in tasks)

    assert ask(run, Grouped, "work") == "echo echo echo"


def test_anyio_cancel_scopes_and_task_groups_work(run) -> None:
    class Scoped(Handler):
        async def work(self) -> str:
            with anyio.move_on_after(0.001) as scope:
                await anyio.sleep(10)
            found = []
            async with anyio.create_task_group() as group:
                for n in range(3):
                    group.start_soon(self.note, found, n)
            with anyio.fail_after(5):
                await anyio.sleep(0)
            return f"{scope.cancelled_caught} {sorted(found)}"

        async def note(self, found: list[int], n: int) -> None:
            await anyio.sleep(0)
            found.append(n)

    assert ask(run, Scoped, "work") == "True [0, 1, 2]"


def test_anyio_may_cancel_from_within(run) -> None:
    class Scoped(Handler):
        async def work(self) -> str:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep, 10)
                await anyio.sleep(0)
                group.cancel_scope.cancel()
            return "cancelled and alive"

    assert ask(run, Scoped, "work") == "cancelled and alive"


@pytest.mark.parametrize("suspends", [False, True])
def test_context_variables_do_not_leak_to_another_actor(run, suspends: bool) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")

    class Setter(Handler):
        async def work(self) -> str:
            variable.set("dirty")
            if suspends:
                await asyncio.sleep(0)
            return variable.get()

    class Reader(Handler):
        async def work(self) -> str:
            return variable.get()

    async def body() -> None:
        async with Kernel() as kernel:
            setter, reader = await kernel.spawn(Setter), await kernel.spawn(Reader)
            both = await asyncio.gather(
                *(kernel.ask(ref, Do("work")) for ref in (setter, reader, setter, reader))
            )
            assert both == ["dirty", "clean", "dirty", "clean"]

    run(body())


def test_a_context_variable_set_by_a_plain_handler_does_not_reach_the_asker(run) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="clean")

    class Setter(Actor):
        @on(Do)
        def do(self, request: Do) -> str:
            variable.set("dirty")
            return variable.get()

    async def body() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Setter)
            assert await kernel.ask(ref, Do("")) == "dirty"
            assert variable.get() == "clean"

    run(body())


def test_an_aiohttp_client_with_its_own_timeouts_works(run) -> None:
    async def hello(_: web.Request) -> web.Response:
        return web.Response(text="hello")

    class Client(Handler):
        def __init__(self, url: str) -> None:
            self.url = url

        async def work(self) -> str:
            timeout = aiohttp.ClientTimeout(total=5)
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(self.url) as response:
                return await response.text()

    async def body() -> None:
        app = web.Application()
        app.router.add_get("/", hello)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        try:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Client, f"http://127.0.0.1:{port}/")
                assert await kernel.ask(ref, Do("work")) == "hello"
        finally:
            await runner.cleanup()

    run(body())


@pytest.mark.slow
def test_the_anthropic_client_works_inside_a_handler(run) -> None:
    import anthropic

    async def messages(_: web.Request) -> web.Response:
        return web.json_response(
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "model": "claude-sonnet-5",
                "content": [{"type": "text", "text": "hello from a server"}],
                "stop_reason": "end_turn",
                "stop_sequence": None,
                "usage": {"input_tokens": 1, "output_tokens": 1},
            }
        )

    class Client(Handler):
        def __init__(self, url: str) -> None:
            self.url = url

        async def work(self) -> str:
            async with anthropic.AsyncAnthropic(api_key="k", base_url=self.url, max_retries=0) as client:
                message = await client.messages.create(
                    model="claude-sonnet-5", max_tokens=5, messages=[{"role": "user", "content": "hi"}]
                )
            return message.content[0].text

    async def body() -> None:
        app = web.Application()
        app.router.add_post("/v1/messages", messages)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port = runner.addresses[0][1]
        try:
            async with Kernel() as kernel:
                ref = await kernel.spawn(Client, f"http://127.0.0.1:{port}")
                assert await kernel.ask(ref, Do("work")) == "hello from a server"
        finally:
            await runner.cleanup()

    run(body())
