"""Agents: actors that talk to a model; their turns, their committed conversations, and pipelines of them."""

from avm.agents.agent import DEFAULT_MODEL, Agent, Say
from avm.agents.pipeline import pipeline
from avm.agents.replay import Play, PlayResult, ReplayAgent, is_exact
from avm.agents.roots import Roots, RootsStatistics
from avm.agents.turn import play_turn

__all__ = [
    "DEFAULT_MODEL",
    "Agent",
    "Play",
    "PlayResult",
    "ReplayAgent",
    "Roots",
    "RootsStatistics",
    "Say",
    "is_exact",
    "pipeline",
    "play_turn",
]
