"""The scheduler: ready queues and the worker tasks that empty them. It runs anything that has `run`."""

from avm.scheduler.clock import Clock, LoopClock, TimerHandle
from avm.scheduler.loop import Runnable, Scheduler, SchedulerStatistics, Worker, one_turn
from avm.scheduler.queue import PRIORITIES, Priority, ReadyQueue

__all__ = [
    "PRIORITIES",
    "Clock",
    "LoopClock",
    "Priority",
    "ReadyQueue",
    "Runnable",
    "Scheduler",
    "SchedulerStatistics",
    "TimerHandle",
    "Worker",
    "one_turn",
]
