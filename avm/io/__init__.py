"""The I/O manager: one supervised pool of actors for every model call and tool call of every agent."""

from avm.io.backlog import Backlog
from avm.io.pool import CONCURRENCY, NAME, TOOL_CONCURRENCY, IoFront, ModelWorker, io_tree
from avm.io.providers import (
    Latency,
    Provider,
    RecordedProvider,
    Recording,
    Recordings,
    ScriptedProvider,
    choose_provider,
)
from avm.io.request import (
    CallTool,
    Complete,
    Completion,
    Message,
    ModelRequest,
    PoolStatistics,
    PoolStatus,
    Timings,
    ToolCall,
    ToolOutcome,
    Usage,
    decode_fragment,
    encode_fragment,
)
from avm.io.reservoir import Reservoir

__all__ = [
    "CONCURRENCY",
    "NAME",
    "TOOL_CONCURRENCY",
    "Backlog",
    "CallTool",
    "Complete",
    "Completion",
    "IoFront",
    "Latency",
    "Message",
    "ModelRequest",
    "ModelWorker",
    "PoolStatistics",
    "PoolStatus",
    "Provider",
    "RecordedProvider",
    "Recording",
    "Recordings",
    "Reservoir",
    "ScriptedProvider",
    "Timings",
    "ToolCall",
    "ToolOutcome",
    "Usage",
    "choose_provider",
    "decode_fragment",
    "encode_fragment",
    "io_tree",
]
