"""What an actor may ask about itself and its VM."""

from __future__ import annotations

import pytest

from avm.actors import Actor, Kernel
from avm.errors import PackError, StartError
from tests.actors.cast import Recorder, actor_of


def test_is_alive_is_false_for_an_object_whose_actor_has_ended(run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            ref = await kernel.spawn(Recorder)
            actor = actor_of(ref)
            assert actor.is_alive()

            kernel.kill(ref)

            assert not actor.is_alive()

    run(main())


def test_effective_priority_is_that_of_spawn_or_else_of_the_class(run) -> None:
    async def main() -> None:
        async with Kernel() as kernel:
            plain = await kernel.spawn(Recorder)
            varied = await kernel.spawn(Recorder, priority="user")

            assert actor_of(plain).effective_priority == "normal"
            assert actor_of(varied).effective_priority == "user"

    run(main())


def test_a_service_that_is_missing_is_an_error_unless_there_is_a_default(run) -> None:
    async def main() -> None:
        async with Kernel(services={"clerk": 7}) as kernel:
            actor = actor_of(await kernel.spawn(Recorder))

            assert actor.service("clerk", None) == 7
            assert actor.service("cook", None) is None
            with pytest.raises(KeyError, match=r"no service 'cook'; it has: clerk"):
                actor.service("cook")

    run(main())


def test_a_failing_init_is_a_start_error_also_for_an_actor_with_a_name_S24(run) -> None:
    class Picky(Actor):
        def __init__(self) -> None:
            raise PackError("no such file")

    async def main() -> None:
        async with Kernel() as kernel:
            with pytest.raises(StartError, match="no such file"):
                await kernel.spawn(Picky)
            with pytest.raises(StartError, match="no such file"):
                await kernel.spawn(Picky, name="desk")

            assert kernel.whereis("desk") is None

    run(main())
