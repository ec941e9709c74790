"""The simulated loop: time that jumps, callbacks in order, choices where asyncio leaves a choice, no real world."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any

import pytest

from avm.errors import NotSimulated, SimulationEndless, SimulationError, SimulationStuck
from avm.testing import Deviations, Seeded
from avm.testing.choices import Schedule
from avm.testing.loop import SimulatedLoop


@pytest.fixture
def loop() -> Iterator[SimulatedLoop]:
    made = SimulatedLoop(Schedule(Deviations()))
    yield made
    made.close()


def _note(seen: list[str], what: str, _: object) -> None:
    seen.append(what)


def timers(loop: SimulatedLoop, *delays: float) -> list[float]:
    """Set timers named by their delays; return the list in which they will write themselves down."""
    fired: list[float] = []
    for number, delay in enumerate(delays):
        loop.call_later(delay, fired.append, delay + number / 1000)
    return fired


def test_time_jumps_to_the_next_deadline(loop: SimulatedLoop) -> None:
    before = time.perf_counter()

    loop.run_until_complete(asyncio.sleep(86_400))

    assert loop.time() == 86_400
    assert time.perf_counter() - before < 5


def test_timers_fire_each_at_its_own_time(loop: SimulatedLoop) -> None:
    seen: list[float] = []
    for delay in (3.0, 1.0, 2.0):
        loop.call_later(delay, lambda: seen.append(loop.time()))

    loop.run_until(10.0)

    assert seen == [1.0, 2.0, 3.0]
    assert loop.time() == 10.0


def test_a_horizon_stops_before_what_is_due_later(loop: SimulatedLoop) -> None:
    fired = timers(loop, 1, 5)

    loop.run_until(4.0)

    assert fired == [1.0]
    assert loop.next_deadline() == 5.0


def test_timers_of_one_moment_fire_in_order_unless_the_schedule_says_otherwise() -> None:
    orders = set()
    for seed in range(20):
        loop = SimulatedLoop(Schedule(Seeded(seed)))
        fired = timers(loop, 1, 1, 1)
        loop.run_until(1.0)
        loop.close()
        orders.add(tuple(fired))
    plain = SimulatedLoop(Schedule(Deviations()))
    fired = timers(plain, 1, 1, 1)
    plain.run_until(1.0)
    plain.close()

    assert fired == [1.0, 1.001, 1.002]
    assert len(orders) == 6


def test_callbacks_run_in_the_order_of_the_calls_under_every_seed() -> None:
    for seed in range(10):
        loop = SimulatedLoop(Schedule(Seeded(seed)))
        ran: list[int] = []
        for number in range(5):
            loop.call_soon(ran.append, number)
        loop.settle()
        loop.close()
        assert ran == [0, 1, 2, 3, 4]


def test_a_cancelled_timer_does_not_fire_and_does_not_hold_time(loop: SimulatedLoop) -> None:
    fired: list[int] = []
    for number in range(5000):
        loop.call_later(1.0 + number, fired.append, number).cancel()
    loop.call_later(0.5, fired.append, -1)

    loop.run_until(10_000.0)

    assert fired == [-1]
    assert loop.next_deadline() is None


def test_open_calls_are_answered_when_nothing_else_is_to_do_in_the_order_of_the_schedule() -> None:
    def order(choices: dict[int, int]) -> list[str]:
        loop = SimulatedLoop(Schedule(Deviations(choices)))
        seen: list[str] = []
        for what in ("one", "two", "three"):
            loop.answered(what).add_done_callback(partial(_note, seen, what))
        loop.call_soon(seen.append, "busy")
        loop.settle()
        loop.close()
        return seen

    assert order({}) == ["busy", "one", "two", "three"]
    assert order({0: 2, 1: 1}) == ["busy", "three", "two", "one"]


def test_waiting_for_what_never_comes_is_an_error_at_once(loop: SimulatedLoop) -> None:
    async def wait() -> None:
        await loop.create_future()

    with pytest.raises(SimulationStuck, match="no timer is set"):
        loop.run_until_complete(wait())


def test_a_loop_that_never_rests_is_an_error(loop: SimulatedLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("avm.testing.loop.MAX_TURNS", 100)

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    task = loop.create_task(spin())
    with pytest.raises(SimulationEndless, match="no time|still"):
        loop.settle()
    task.cancel()
    loop.settle()


def test_sets_of_tasks_are_gone_through_in_the_order_of_their_making(loop: SimulatedLoop) -> None:
    async def make() -> list[int]:
        tasks = {asyncio.ensure_future(asyncio.sleep(1, n)) for n in range(50)}
        done, _ = await asyncio.wait(tasks)
        return [task.result() for task in done]

    assert loop.run_until_complete(make()) == list(range(50))


def test_the_clock_can_leap_and_what_was_due_is_late(loop: SimulatedLoop) -> None:
    seen: list[float] = []
    loop.call_later(1.0, lambda: loop.leap(10.0))
    loop.call_later(2.0, lambda: seen.append(loop.time()))

    loop.run_until(20.0)

    assert seen == [11.0]


def test_it_does_not_run_within_another_loop(loop: SimulatedLoop) -> None:
    async def within() -> None:
        with pytest.raises(SimulationError, match="plain function"):
            loop.settle()

    asyncio.run(within())


def sleeps() -> None:
    time.sleep(0.01)


def reads_the_time() -> None:
    time.time()


def reads_the_monotonic_clock() -> None:
    time.monotonic()


def connects() -> None:
    with socket.socket() as sock:
        sock.connect(("127.0.0.1", 1))


def starts_a_thread() -> None:
    threading.Thread(target=print).start()


def starts_a_process() -> None:
    subprocess.run(["true"], check=True)


REAL: list[tuple[Callable[[], None], str]] = [
    (sleeps, r"asyncio\.sleep"),
    (reads_the_time, r"self\.now\(\)"),
    (reads_the_monotonic_clock, r"self\.now\(\)"),
    (connects, r"provider="),
    (starts_a_thread, r"run_blocking"),
    (starts_a_process, r"fake"),
]


@pytest.mark.parametrize(("use", "instead"), REAL, ids=[use.__name__ for use, _ in REAL])
def test_the_real_world_is_refused_with_what_to_use_instead(
    loop: SimulatedLoop, use: Callable[[], None], instead: str
) -> None:
    async def inside() -> None:
        use()

    with pytest.raises(NotSimulated, match=instead):
        loop.run_until_complete(inside())

    assert len(loop.guard.refused) == 1


@pytest.mark.parametrize(
    ("use", "instead"),
    [
        (lambda loop: asyncio.to_thread(print), "run_blocking"),
        (lambda loop: asyncio.open_connection("127.0.0.1", 1), "provider="),
        (lambda loop: asyncio.create_subprocess_exec("true"), "fake"),
        (lambda loop: loop.getaddrinfo("localhost", 1), "provider="),
    ],
    ids=["to_thread", "open_connection", "create_subprocess_exec", "getaddrinfo"],
)
def test_asyncio_functions_that_need_the_real_world_are_refused(
    loop: SimulatedLoop, use: Callable[[SimulatedLoop], Coroutine[Any, Any, Any]], instead: str
) -> None:
    async def inside() -> None:
        await use(loop)

    with pytest.raises(NotSimulated, match=instead):
        loop.run_until_complete(inside())


def test_the_real_world_is_there_again_afterwards(loop: SimulatedLoop) -> None:
    loop.run_until_complete(asyncio.sleep(1))

    assert time.time() > 1e9
    assert "connect" not in vars(socket.socket)
    starts_a_thread()


def test_another_thread_is_left_alone_while_a_simulation_runs(loop: SimulatedLoop) -> None:
    seen: list[float] = []
    going, done = threading.Event(), threading.Event()

    def beside() -> None:
        going.wait(5)
        seen.append(time.time())
        done.set()

    thread = threading.Thread(target=beside)
    thread.start()

    async def inside() -> None:
        going.set()
        done.wait(5)

    loop.run_until_complete(inside())
    thread.join()

    assert seen


def test_simulations_of_several_threads_do_not_meet() -> None:
    failed: list[BaseException] = []

    def run() -> None:
        try:
            for _ in range(20):
                loop = SimulatedLoop(Schedule(Deviations()))
                loop.run_until_complete(asyncio.sleep(5))
                loop.close()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not failed
    assert time.sleep.__name__ == "sleep"
