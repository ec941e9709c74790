"""What a VM logs when it was given no observers, and the limit on how fast (S76, S77)."""

from __future__ import annotations

from typing import Any

from avm.supervision import child, supervisor
from avm.vm import VM, RateLimit
from tests.vm.cast import Do, Player, crash


def vm_of(**options: Any) -> VM:
    tree = supervisor("troupe", max_restarts=100, children=[child("one", Player)])
    return VM(tree, memory=None, provider="scripted", watchdog=None, **options)


def test_a_crash_is_one_record_with_its_traceback(run: Any, caplog: Any) -> None:
    """S76."""

    async def body() -> None:
        async with vm_of() as vm:
            vm.tell("one", Do(crash))
            await vm.kernel.idle()

    run(body())

    (record,) = caplog.records
    assert record.name == "avm"
    assert "troupe/one (one#" in record.getMessage()
    assert "crashed while it handled Do(action='crash'): RuntimeError: boom." in record.getMessage()
    assert record.exc_info[0] is RuntimeError


def test_a_kill_is_not_logged(run: Any, caplog: Any) -> None:
    async def body() -> None:
        async with vm_of() as vm:
            vm.kill("one")
            await vm.kernel.idle()

    run(body())
    assert not caplog.records


def test_no_observers_is_silence(run: Any, caplog: Any) -> None:
    async def body() -> None:
        async with vm_of(observers=[]) as vm:
            vm.tell("one", Do(crash))
            await vm.kernel.idle()

    run(body())
    assert not caplog.records


def test_many_crashes_do_not_flood_the_log(run: Any, caplog: Any) -> None:
    """S77."""

    async def body() -> None:
        async with vm_of() as vm:
            for _ in range(60):
                vm.tell("one", Do(crash))
                await vm.kernel.idle()

    run(body())
    assert 20 <= len(caplog.records) < 60


def test_a_rate_limit_lets_a_burst_through_and_recovers() -> None:
    limit = RateLimit(burst=2, per_second=1.0)

    assert [limit.admit(10.0) for _ in range(4)] == [True, True, False, False]
    assert [limit.admit(11.0), limit.admit(11.0)] == [True, False]
    assert limit.take_withheld() == 3
    assert limit.withheld_since == 10.0
    assert limit.take_withheld() == 0
    assert [limit.admit(99.0) for _ in range(3)] == [True, True, False]
