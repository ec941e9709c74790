"""Supervision: trees of actors that are started in order, restarted when they fail, and stopped in reverse.

A tree is a value: `child(...)`, `supervisor(...)` and `dynamic_supervisor(...)` describe it, `validate` checks it,
`start_tree` starts it. The functions of administration act on one that runs.
"""

from avm.supervision.administration import (
    ChildCounts,
    ChildStatus,
    CountChildren,
    DeleteChild,
    GetChildSpec,
    RestartChild,
    StartChild,
    TerminateChild,
    WhichChildren,
    child_spec,
    count_children,
    delete_child,
    restart_child,
    start_child,
    terminate_child,
    which_children,
)
from avm.supervision.dynamic import DynamicSupervisor, dynamic_supervisor
from avm.supervision.intensity import NO_BACKOFF, Backoff, RestartWindow
from avm.supervision.lifecycle import start_tree
from avm.supervision.reports import GaveUpReport, Offender, ProgressReport, SupervisorReport
from avm.supervision.spec import ChildSpec, SupervisorSpec, child, validate
from avm.supervision.supervisor import Supervisor, supervisor

__all__ = [
    "NO_BACKOFF",
    "Backoff",
    "ChildCounts",
    "ChildSpec",
    "ChildStatus",
    "CountChildren",
    "DeleteChild",
    "DynamicSupervisor",
    "GaveUpReport",
    "GetChildSpec",
    "Offender",
    "ProgressReport",
    "RestartChild",
    "RestartWindow",
    "StartChild",
    "Supervisor",
    "SupervisorReport",
    "SupervisorSpec",
    "TerminateChild",
    "WhichChildren",
    "child",
    "child_spec",
    "count_children",
    "delete_child",
    "dynamic_supervisor",
    "restart_child",
    "start_child",
    "start_tree",
    "supervisor",
    "terminate_child",
    "validate",
    "which_children",
]
