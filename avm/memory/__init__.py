"""The memory manager: bytes in, digests out. It knows no actors.

`Store` keeps content once, by its digest, under one ceiling; `Blob` is the handle of content in it. `Conversation` is
the history of an agent as an immutable value. `read_conversations` and `write_conversations` are for files of them.
"""

from avm.memory.account import ColdStatistics, StoreStatistics
from avm.memory.blob import Blob, Body
from avm.memory.ceiling import Ceiling, format_size, memory_limit, parse_size, rss_bytes, trim_heap
from avm.memory.conversation import Conversation
from avm.memory.digest import Digest
from avm.memory.file import File
from avm.memory.fragment import Message
from avm.memory.page import Page
from avm.memory.roots import Roots, RootsStatistics
from avm.memory.store import Store
from avm.memory.workload import read_conversations, write_conversations

__all__ = [
    "Blob",
    "Body",
    "Ceiling",
    "ColdStatistics",
    "Conversation",
    "Digest",
    "File",
    "Message",
    "Page",
    "Roots",
    "RootsStatistics",
    "Store",
    "StoreStatistics",
    "format_size",
    "memory_limit",
    "parse_size",
    "read_conversations",
    "rss_bytes",
    "trim_heap",
    "write_conversations",
]
