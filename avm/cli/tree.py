"""The main job as a supervision tree: a director, the agents, and a writer and chaos if they are wanted.

job (rest_for_one)
 +- writer     with --out
 +- director
 +- agents     a dynamic supervisor, so that a thousand agents stop at the same time and not one after another
 |   +- agent-0001 ...
 +- chaos      with --chaos
"""

from __future__ import annotations

from avm.actors.ref import Ref
from avm.cli.chaos import Chaos
from avm.cli.director import Director
from avm.cli.live import LivePlayer
from avm.cli.options import JobOptions
from avm.cli.player import DIRECTOR, Player
from avm.cli.workload import KeptFile, Workload
from avm.cli.writer import WRITER, Writer
from avm.supervision import ChildSpec, child, dynamic_supervisor, start_child, supervisor
from avm.tools.recorded import RecordedTools

WINDOW = 60.0
"""Seconds over which restarts of agents are counted."""

AGENTS = "job/agents"
"""The path of the agents' supervisor."""


def job_tree(
    options: JobOptions, workload: Workload, out: KeptFile | None, is_live: bool = False
) -> ChildSpec:
    """Describe the job, without its agents. They come back as often as chaos asks for; nothing else may crash."""
    recordings, target = workload.recordings, options.conversations
    if target == 0:
        target = len(recordings)
    agents = dynamic_supervisor("agents", max_restarts=allowed_restarts(options), max_seconds=WINDOW)
    children: list[ChildSpec] = [child("writer", Writer, out, name=WRITER)] if out is not None else []
    children += [
        child("director", Director, recordings, target, out, workload.name, is_live, name=DIRECTOR),
        agents,
    ]
    if options.chaos:
        victims = tuple(f"{AGENTS}/{name}" for name in agent_names(options))
        children.append(child("chaos", Chaos, options.chaos, victims))
    return supervisor("job", strategy="rest_for_one", max_restarts=0, max_seconds=WINDOW, children=children)


async def start_agents(agents: Ref, options: JobOptions, workload: Workload, is_live: bool = False) -> None:
    """Start the agents under their supervisor; live ones get their replies from a model, not from the recording.

    Raises:
        StartError: one of them did not start.
    """
    recordings = workload.recordings
    tools = RecordedTools(recordings)
    for name in agent_names(options):
        if is_live:
            spec = child(
                name, LivePlayer, recordings, tools, options.model, options.max_tokens, options.system
            )
            await start_child(agents, spec)
        else:
            await start_child(agents, child(name, Player, recordings, tools))


def agent_names(options: JobOptions) -> list[str]:
    """Return the ids of all agents."""
    digits = len(str(options.agents))
    return [f"agent-{number:0{digits}}" for number in range(1, options.agents + 1)]


def allowed_restarts(options: JobOptions) -> int:
    """Return how often agents may restart within the window: what chaos brings, and some of their own."""
    return max(10, options.agents // 10) + int(options.chaos * WINDOW * 2)
