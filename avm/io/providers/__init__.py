"""Who serves models: one small Protocol, and the providers behind it; `anthropic` is imported when it is chosen."""

from avm.io.providers.choice import PROVIDERS, choose_provider
from avm.io.providers.provider import (
    BatchProvider,
    BatchState,
    Capabilities,
    Delta,
    OnEvent,
    PlainProvider,
    Price,
    Provider,
    Started,
)
from avm.io.providers.recorded import RecordedProvider, Recording, Recordings
from avm.io.providers.scripted import REALISTIC, Latency, ScriptedProvider, echo

__all__ = [
    "PROVIDERS",
    "REALISTIC",
    "BatchProvider",
    "BatchState",
    "Capabilities",
    "Delta",
    "Latency",
    "OnEvent",
    "PlainProvider",
    "Price",
    "Provider",
    "RecordedProvider",
    "Recording",
    "Recordings",
    "ScriptedProvider",
    "Started",
    "choose_provider",
    "echo",
]
