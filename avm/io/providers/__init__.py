"""Who serves models: one small Protocol, and the providers behind it."""

from avm.io.providers.anthropic import AnthropicProvider
from avm.io.providers.choice import PROVIDERS, choose_provider
from avm.io.providers.provider import Provider
from avm.io.providers.recorded import RecordedProvider, Recording, Recordings
from avm.io.providers.scripted import REALISTIC, Latency, ScriptedProvider, echo

__all__ = [
    "PROVIDERS",
    "REALISTIC",
    "AnthropicProvider",
    "Latency",
    "Provider",
    "RecordedProvider",
    "Recording",
    "Recordings",
    "ScriptedProvider",
    "choose_provider",
    "echo",
]
