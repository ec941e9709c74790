"""The VM: all parts wired together under one root, for the length of an `async with` block."""

from avm.vm.last_resort import LastResort, RateLimit
from avm.vm.machine import VM
from avm.vm.run import run
from avm.vm.status import Activity, ActorStatus, VMStatus

__all__ = ["VM", "Activity", "ActorStatus", "LastResort", "RateLimit", "VMStatus", "run"]
