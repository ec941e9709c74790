"""Head: what comes before the messages of a conversation. It is the same for all its versions, so they share one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from blake3 import blake3

from avm.memory import fragment as fragments
from avm.memory.blob import Blob
from avm.memory.digest import Digest
from avm.memory.store import Store

NOTHING = Digest.of("").bytes


@attrs.frozen(slots=True, eq=False)
class Head:
    """Where a conversation is kept, its prompt and tools, its user's notes, and the root before the first message."""

    store: Store
    system: Blob | None
    tools: Blob | None
    meta: bytes
    size: int
    """Raw bytes of prompt and tools."""
    root: bytes

    @classmethod
    def make(
        cls, store: Store, system: str, tools: Sequence[Mapping[str, Any]], meta: Mapping[str, Any]
    ) -> Head:
        """Keep prompt and tools in the store. Errors as `Conversation`."""
        system_blob = store.put(system) if system else None
        tools_blob = store.put(fragments.compact(list(tools), "tools")) if tools else None
        size = 0
        root = blake3(b"avm conversation\0")
        for blob in (system_blob, tools_blob):
            root.update(blob.key if blob is not None else NOTHING)
            if blob is not None:
                store.shelf.account.hold(blob.entry, 0)
                size += blob.size
        notes = fragments.compact(dict(meta), "meta")
        return cls(store, system_blob, tools_blob, notes, size, root.digest())

    def system_text(self) -> str:
        """Return the system prompt."""
        return self.system.text if self.system is not None else ""

    def tools_json(self) -> bytes:
        """Return the tools as one JSON array."""
        return self.tools.content if self.tools is not None else b"[]"
