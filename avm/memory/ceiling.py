"""Ceiling: what the process takes, what it may take, and sizes as people write them.

The promise of `memory="16GB"` is about the whole process: what the system says it takes, its RSS, stays below. The
store knows what its own objects take, but not the interpreter, the actors, or what lies between objects on the heap.
So that is compared once a second: the store may grow by what is left below 85 % of the ceiling, and is to shrink by
what the process takes too much.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from avm.memory.store import Store

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}

FLOOR = 64 << 20
"""The least ceiling the command line takes: the interpreter and the tables of the compressor need that much."""

TARGET = 0.85
"""The part of the ceiling that the process is brought to; above it nothing may grow, and the heap is trimmed."""

ALARM = 0.9
"""The part of the ceiling above which the store shrinks by what is too much."""

LEAST = 1 / 32
"""The part of the ceiling that the store may take in any case, or it could not work at all."""

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:I?B)?\s*", re.IGNORECASE)
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def parse_size(text: str | int, floor: int = FLOOR) -> int:
    """Return the bytes that a size means: "16GB", "512 MiB", "1.5g", a plain number. Units are powers of 1024.

    Args:
        floor: the least size that makes sense here.

    Raises:
        ValueError: not a size, or below the floor.
    """
    found = _SIZE.fullmatch(str(text)) if not isinstance(text, bool) else None
    if found is None:
        raise ValueError(
            f"memory size {text!r} is not a size; write a number and a unit: '16GB', '512MB', '1.5GB'."
        )
    size = (
        int(float(found[1]) * UNITS[found[2].upper()])
        if "." in found[1]
        else int(found[1]) * UNITS[found[2].upper()]
    )
    if size < floor:
        raise ValueError(
            f"memory size {text!r} is below the floor of {format_size(floor)}; give at least that."
        )
    return size


def format_size(size: int) -> str:
    """Return a size as people read it: "1.5 GB"."""
    for unit in ("TB", "GB", "MB", "KB"):
        scale = UNITS[unit[0]]
        if size >= scale:
            return f"{size / scale:.1f}".removesuffix(".0") + f" {unit}"
    return f"{size} bytes"


class Ceiling:
    """Holds a process below its ceiling, through the store.

    Args:
        store: what can give way.
        asked: bytes; a lower limit of a cgroup or the machine holds in its place.
        rss: measures what the process takes.
        machine: bytes this process may have at most; None if unknown.
    """

    def __init__(
        self,
        store: Store,
        asked: int,
        *,
        rss: Callable[[], int] | None = None,
        machine: int | None = None,
    ) -> None:
        self.limit = asked if machine is None else min(asked, machine)
        self.is_exceeded = False
        """Whether the process took more than the ceiling when it was last compared."""
        self._store = store
        self._rss = rss if rss is not None else rss_bytes

    def check(self) -> bool:
        """Compare, and tell the store what it may take from now on. Call it about once a second.

        Returns:
            Whether the process takes more than it is brought to: the heap is to be trimmed.
        """
        limit, taken = self.limit, self._rss()
        target = int(limit * TARGET)
        headroom = target - taken
        self.is_exceeded = taken > limit
        shelf = self._store.shelf
        account, before = shelf.account.charge, shelf.limit if shelf.limit is not None else target
        if taken > limit * ALARM:
            allowed = min(before, account) + headroom
        else:
            room = max(headroom, 0)
            # What the store has given back is on the heap for it to take again, though RSS does not show it; so what it
            # was allowed stands, a quarter above what it has. What comes in takes more for a moment than when it is
            # kept; so it is allowed only half of the rest.
            allowed = max(account + room // 2, min(before, account + account // 4 + room))
        self._store.limit_to(max(int(limit * LEAST), min(allowed, target)))
        return headroom < 0


def trim_heap() -> bool:
    """Give back to the system what is free on the heap, where the C library can; tell whether it did. Any thread."""
    trim = _malloc_trim()
    return trim is not None and bool(trim(0))


def _malloc_trim() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    # Only glibc has it.
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found


def rss_bytes() -> int:
    """Return the resident bytes of this process; where the system does not tell, the most it ever had."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return _peak_rss()


def _peak_rss() -> int:
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return the bytes this process may take, None if unknown: the least of its cgroups' limits and the machine's.

    Args:
        root: where proc and sys are found.
    """
    limits = [*_cgroup_limits(root), *_machine_memory(root)]
    return min(limits, default=None)


def _cgroup_limits(root: Path) -> list[int]:
    """Limits of cgroup v2 (memory.max) and v1 (memory.limit_in_bytes), of this process's group and all above it."""
    limits = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            mount, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the group's path may be the host's while its files are at the mount itself; so look at all.
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):
            text = _read(mount.joinpath(*parts[:depth], name)).strip()
            # "max" means none; v1 says none by a number near 2**63.
            if text.isdigit() and int(text) < 1 << 60:
                limits.append(int(text))
    return limits


def _machine_memory(root: Path) -> list[int]:
    found = re.search(r"^MemTotal:\s+(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    return [int(found[1]) * 1024] if found else []


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
