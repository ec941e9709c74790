"""The kernel of avm: actors, their mailboxes and addresses, links, monitors, names, groups and timers."""

from avm.actors.actor import Actor, on
from avm.actors.event import EVENTS, Request, event
from avm.actors.hooks import CrashReport, DeadLetter, Observer, Report
from avm.actors.kernel import Kernel
from avm.actors.ref import Pid, Ref
from avm.actors.reply import PendingReply
from avm.actors.signals import Down, Exit, Ignore, Kill, Killed, Monitor, Normal, Shutdown, StopActor, Timeout

__all__ = [
    "EVENTS",
    "Actor",
    "CrashReport",
    "DeadLetter",
    "Down",
    "Exit",
    "Ignore",
    "Kernel",
    "Kill",
    "Killed",
    "Monitor",
    "Normal",
    "Observer",
    "PendingReply",
    "Pid",
    "Ref",
    "Report",
    "Request",
    "Shutdown",
    "StopActor",
    "Timeout",
    "event",
    "on",
]
