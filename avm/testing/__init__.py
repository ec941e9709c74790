"""Test kit: simulations of a whole VM on virtual time, with chosen orders and faults as values; a manual clock; a
Messages API on the loopback interface."""

from avm.testing.choices import Choices, Deviations, Drawn, Recorded, Seeded
from avm.testing.clock import ManualClock
from avm.testing.faults import (
    ClockStep,
    Crash,
    FailStart,
    Fault,
    FullMailbox,
    Kill,
    ModelAnswers,
    ModelFails,
    ModelSlow,
    ToolFails,
    ToolHangs,
    ToolSlow,
)
from avm.testing.messages_server import MessagesServer, ServerFault, ServerReply
from avm.testing.probe import Idle, Probe
from avm.testing.search import Failure, find_failure, search
from avm.testing.simulate import Simulation, simulate

__all__ = [
    "Choices",
    "ClockStep",
    "Crash",
    "Deviations",
    "Drawn",
    "FailStart",
    "Failure",
    "Fault",
    "FullMailbox",
    "Idle",
    "Kill",
    "ManualClock",
    "MessagesServer",
    "ModelAnswers",
    "ModelFails",
    "ModelSlow",
    "Probe",
    "Recorded",
    "Seeded",
    "ServerFault",
    "ServerReply",
    "Simulation",
    "ToolFails",
    "ToolHangs",
    "ToolSlow",
    "find_failure",
    "search",
    "simulate",
]
