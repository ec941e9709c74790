"""avm, the Agent Virtual Machine: supervised LLM agents as actors, thousands in one process.

    from avm import VM, Agent, child, run

    async def main() -> None:
        async with VM(child("critic", Agent)) as vm:
            print(await vm.ask("critic", "A draft."))

    run(main)

What is not here is in the packages: `avm.supervision`, `avm.router`, `avm.io` (providers), `avm.memory`, `avm.testing`.
"""

from avm.actors import (
    Actor,
    Down,
    Exit,
    Ignore,
    Killed,
    Normal,
    Pid,
    Ref,
    Request,
    Shutdown,
    Timeout,
    event,
    on,
)
from avm.agents import Agent, Say, pipeline
from avm.errors import AskTimeout, AVMError, Refuse, SpecError, StartError
from avm.memory import Conversation, Store
from avm.supervision import ChildSpec, child, dynamic_supervisor, start_child, supervisor
from avm.tools import Tool, tool
from avm.vm import VM, run

__version__ = "0.1.0"

__all__ = [
    "VM",
    "AVMError",
    "Actor",
    "Agent",
    "AskTimeout",
    "ChildSpec",
    "Conversation",
    "Down",
    "Exit",
    "Ignore",
    "Killed",
    "Normal",
    "Pid",
    "Ref",
    "Refuse",
    "Request",
    "Say",
    "Shutdown",
    "SpecError",
    "StartError",
    "Store",
    "Timeout",
    "Tool",
    "child",
    "dynamic_supervisor",
    "event",
    "on",
    "pipeline",
    "run",
    "start_child",
    "supervisor",
    "tool",
]
