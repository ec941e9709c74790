"""Head: what comes before the messages of a conversation. All conversations with equal prompt and tools share one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import ref

import attrs
from blake3 import blake3

from avm.memory import fragment as fragments
from avm.memory.blob import Blob
from avm.memory.digest import Digest

if TYPE_CHECKING:
    from avm.memory.store import Store

NOTHING = Digest.of("").bytes


@attrs.frozen(slots=True, eq=False)
class Head:
    """Where a conversation is kept, its prompt and tools, and the root before the first message."""

    store: Store
    system: Blob | None
    tools: Blob | None
    size: int
    """Raw bytes of prompt and tools."""
    root: bytes

    @classmethod
    def make(cls, store: Store, system: str, tools: Sequence[Mapping[str, Any]]) -> Head:
        """Keep prompt and tools in the store. Errors as `Conversation`."""
        system_blob = store.put(system) if system else None
        tools_blob = store.put(fragments.compact(list(tools), "tools")) if tools else None
        return cls.of(store, system_blob, tools_blob)

    @classmethod
    def of(cls, store: Store, system: Blob | None, tools: Blob | None) -> Head:
        """Return the head of a prompt and tools that are kept."""
        key = (system.key if system is not None else NOTHING, tools.key if tools is not None else NOTHING)
        heads = store.shelf.heads
        known = heads.get(key)
        head = known() if known is not None else None
        if head is None:
            size = 0
            for blob in (system, tools):
                if blob is not None:
                    blob.belongs()
                    size += blob.size
            head = cls(store, system, tools, size, blake3(b"avm conversation\0" + key[0] + key[1]).digest())
            heads[key] = ref(head, lambda gone: heads.pop(key, None) if heads.get(key) is gone else None)
        return head

    def system_text(self) -> str:
        """Return the system prompt."""
        return self.system.text if self.system is not None else ""

    def tools_json(self) -> bytes:
        """Return the tools as one JSON array."""
        return self.tools.content if self.tools is not None else b"[]"
