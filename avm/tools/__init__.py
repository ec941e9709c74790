"""Tools: typed functions a model may call, and the pool's workers that run them."""

from avm.tools.runner import RunnableTool, ToolWorker
from avm.tools.tool import OUTPUT_LIMIT, TIMEOUT, Tool, describe_all, tool

__all__ = ["OUTPUT_LIMIT", "TIMEOUT", "RunnableTool", "Tool", "ToolWorker", "describe_all", "tool"]
