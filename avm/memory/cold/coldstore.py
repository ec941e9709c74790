"""The cold store: what the memory manager needs of a disk, as a Protocol of four methods.

A cold store is a few ordered tables of bytes to bytes. What the bytes mean is the archive's affair (see `archive`):
content, conversations, the edges from conversations to content, and how unreferenced content is swept, are written
once above this seam. So any engine with ordered keys and transactions can be plugged in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from avm.errors import ColdStoreError, StoreError

TABLES = ("record", "conversation", "segment", "edge", "dictionary", "quarantine", "meta")
"""All tables there are. Keys are at most 500 bytes, values at most 1 GiB."""

Change = tuple[str, bytes, bytes | None]
"""Table, key, and the new value; None deletes the key, also if it is not there."""


class ColdStore(Protocol):
    """Ordered tables on disk. One thread commits; any thread may read or scan at the same time.

    A reader sees every commit that has returned before it began, and nothing of one that has not. What has been
    committed is there after the process is killed at any moment; and after a power failure, if the store was opened
    to be durable.
    """

    path: str
    """The file or folder it is in; errors name it."""

    def commit(self, changes: Sequence[Change]) -> None:
        """Make all changes, in their order, in one transaction; it is on disk when this returns.

        Raises:
            ColdStoreError: the disk is full, read-only or damaged; none of the changes has happened.
        """

    def read(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of keys, in their order; None for those that are not there.

        Raises:
            ColdStoreError: the file cannot be read there; other keys may still be.
        """

    def scan(
        self, table: str, after: bytes = b"", limit: int = 1000, *, values: bool = True
    ) -> list[tuple[bytes, bytes]]:
        """Return up to `limit` pairs with the least keys greater than `after`, in the order of their keys.

        Args:
            values: False leaves the values out (b""), and does not read them.

        Raises:
            ColdStoreError: as `read`.
        """

    def close(self) -> None:
        """Let go of the files. May be called again."""


# What the engines say alike.

RESCUE = "`avm store verify HOME` lists the damage, `avm store export HOME` rescues what can be read"

DISK_FULL = "cannot grow: the disk is full. Nothing that was committed is lost. Free space and commit again"


def damaged(path: str, found: str) -> ColdStoreError:
    """Return the error of a cold store whose file is not as it was written."""
    return ColdStoreError(f"{path} is damaged: {found}. {RESCUE}.", path)


def not_writable(path: str) -> ColdStoreError:
    """Return the error of a commit to a cold store that was opened to be read only."""
    return ColdStoreError(f"{path} was opened with read_only=True and takes no changes.", path)


def not_smaller(path: str, error: Exception) -> ColdStoreError:
    """Return the error of a cold store that cannot be compacted."""
    return ColdStoreError(f"{path} cannot be made smaller: {error}. Nothing in it is lost.", path)


def brief(error: StoreError, path: str) -> str:
    """Return what an error says, without the path and the advice to verify or rescue."""
    return str(error).removeprefix(f"{path} ").partition(". `avm store verify")[0].rstrip(".")
