"""What all tests share: `run` for async bodies, the recorded conversations beside the checkout, Hypothesis profiles.

Slow tests run last, so that a mistake shows early.
"""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent
TIME_LIMIT = 10.0

# The same examples in every run; HYPOTHESIS_PROFILE=search looks for new ones.
settings.register_profile(
    "fast",
    max_examples=50,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("ci", settings.get_profile("fast"), max_examples=100)
settings.register_profile(
    "search", settings.get_profile("ci"), max_examples=1000, derandomize=False, print_blob=True
)
# For scripts/mutants: that a law fails is enough, how simply does not matter.
settings.register_profile(
    "mutants",
    settings.get_profile("fast"),
    phases=(Phase.explicit, Phase.generate),
    report_multiple_bugs=False,
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "fast"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)


class FreshLoop:
    """Runs async test bodies, each on an event loop of its own, and looks at what they leave behind.

    A coroutine that was never awaited fails the test too, by the rule that warnings are errors.
    """

    def __init__(self) -> None:
        self.complaints: list[str] = []

    def __call__(self, body: Coroutine[Any, Any, T], *, timeout: float = TIME_LIMIT) -> T:
        """Run a coroutine and return its result.

        Args:
            timeout: seconds it may take; a safeguard against hanging, not a measure.
        """
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.get_loop().set_exception_handler(self._complain)
            result, left = runner.run(self._to_the_end(body, timeout))
            gc.collect(1)
        assert not left, f"tasks left running: {', '.join(left)}"
        self.check()
        return result

    def check(self) -> None:
        """Fail if the loop complained: an exception nobody took, a task destroyed while it was pending."""
        complaints, self.complaints = self.complaints, []
        assert not complaints, f"the event loop complained: {'; '.join(complaints)}"

    def _complain(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.complaints.append(f"{context['message']}{f' ({error!r})' if error is not None else ''}")

    async def _to_the_end(self, body: Coroutine[Any, Any, T], timeout: float) -> tuple[T, list[str]]:
        async with asyncio.timeout(timeout):
            result = await body
        # What was cancelled at the very end gets the turns of the loop it needs to finish.
        for _ in range(10):
            left = asyncio.all_tasks() - {asyncio.current_task()}
            if not left:
                break
            await asyncio.sleep(0)
        return result, sorted(repr(task) for task in left)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if os.environ.get("AVM_TEST_LOOP", "asyncio") == "asyncio":
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


@pytest.fixture
def run() -> Iterator[FreshLoop]:
    """Runs `run(body())` on a fresh loop, within 10 s; fails if a task or an unseen exception is left."""
    fresh = FreshLoop()
    yield fresh
    fresh.check()


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of recorded conversations: AVM_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("AVM_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "tau_airline.jsonl.zst").is_file():
        pytest.skip(f"no recorded conversations in {folder}; set AVM_DATA to their folder")
    return folder
