"""Agents: actors that talk to a model; their turns, their committed conversations, and pipelines of them.

The players of recorded conversations are in `avm.agents.replay`.
"""

from avm.agents.agent import DEFAULT_MODEL, Agent, Say
from avm.agents.pipeline import pipeline
from avm.agents.turn import play_turn

__all__ = [
    "DEFAULT_MODEL",
    "Agent",
    "Say",
    "pipeline",
    "play_turn",
]
