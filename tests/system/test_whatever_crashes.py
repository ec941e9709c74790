"""Laws of a whole VM: whichever actors crash, in whatever order, the tree is whole again and answers (S63-S64, S99)."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from avm.actors import Actor, Request, event, on
from avm.supervision import ChildSpec, child, supervisor
from avm.vm import VM

STRATEGIES = ("one_for_one", "rest_for_one", "one_for_all")
PLENTY = 10_000


@event(tag="tests.whatever.Where")
class Where(Request[str]):
    """Answered with the path of who got it."""


class Worker(Actor):
    """Answers."""

    @on(Where)
    def where(self, where: Where) -> str:
        return self.path


def branch(name: str, strategy: str, inner: tuple[ChildSpec, ...] = ()) -> ChildSpec:
    workers = [child(f"{name}{n}", Worker) for n in range(2)]
    return supervisor(
        name,
        strategy=strategy,  # type: ignore[arg-type]
        max_restarts=PLENTY,
        children=[workers[0], *inner, workers[1]],
    )


TREE_PATHS = [
    "top/top0",
    "top/left",
    "top/left/left0",
    "top/left/deep",
    "top/left/deep/deep0",
    "top/left/deep/deep1",
    "top/left/left1",
    "top/right",
    "top/right/right0",
    "top/right/right1",
    "top/top1",
]
"""Every place but the top, which may not fall."""

blows = st.lists(st.tuples(st.sampled_from(TREE_PATHS), st.sampled_from(["crash", "kill"])), max_size=12)


@given(strategies=st.tuples(*[st.sampled_from(STRATEGIES)] * 4), blows=blows, together=st.booleans())
def test_whatever_crashes_the_tree_is_whole_again(
    strategies: tuple[str, ...], blows: list[tuple[str, str]], together: bool
) -> None:
    top, left, deep, right = strategies
    tree = branch(
        "top",
        top,
        (branch("left", left, (branch("deep", deep),)), branch("right", right)),
    )

    async def body() -> None:
        async with VM(tree, memory=None, provider="scripted", observers=[], watchdog=None) as vm:
            for path, blow in blows:
                if path in vm:
                    strike(vm, path, blow)
                if not together:
                    await vm.kernel.idle()
            await vm.kernel.idle()

            assert {node.path for node in vm.status().walk()} >= {"top", *TREE_PATHS}
            workers = [path for path in TREE_PATHS if path[-1].isdigit()]
            assert [await vm.ask(path, Where()) for path in workers] == workers

    asyncio.run(body())


def strike(vm: VM, path: str, blow: str) -> None:
    if blow == "kill":
        vm.kill(path)
    elif isinstance(vm[path].cell.actor, Worker):
        vm.kernel.exit(path, RuntimeError("struck"))


@given(crashes=st.integers(0, 3), allowed=st.integers(0, 3))
def test_the_vm_ends_exactly_when_its_tree_may_not_restart_any_more(crashes: int, allowed: int) -> None:
    """S66, S91."""
    tree = supervisor("top", max_restarts=allowed, max_seconds=3600, children=[child("one", Worker)])
    ended: list[str] = []

    async def body() -> None:
        try:
            async with VM(tree, memory=None, provider="scripted", observers=[], watchdog=None) as vm:
                for _ in range(crashes):
                    vm.kernel.exit("top/one", RuntimeError("struck"))
                    await vm.kernel.idle()
        except Exception as error:
            ended.append(str(error))

    asyncio.run(body())

    if crashes > allowed:
        assert len(ended) == 1
        assert ended[0].startswith("supervisor 'top' gave up")
    else:
        assert ended == []
