"""The home that a command is about: opened, or refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from avm.errors import AVMError
from avm.memory.cold.coldstore import ColdStore
from avm.memory.cold.home import MARK, Home
from avm.memory.cold.opening import open_cold


class Refusal(AVMError):
    """What is asked for cannot be done; `status` is the exit status."""

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def opened(path: Path, *, read_only: bool) -> Iterator[tuple[Home, ColdStore]]:
    """Open a home and its cold store for a with block.

    Raises:
        Refusal: there is no home. HomeError, ColdStoreError: it cannot be opened.
    """
    require_home(path)
    with Home.open(path, read_only=read_only) as home:
        cold = open_cold(home)
        try:
            yield home, cold
        finally:
            cold.close()


def require_home(path: Path) -> None:
    """Raise Refusal if there is no home in a directory."""
    if not path.is_dir():
        found = "it is a file" if path.exists() else "no such directory"
        raise Refusal(f"there is no home {path}: {found}. `avm store import HOME FILE` makes one.")
    if not (path / MARK).exists():
        raise Refusal(f"{path} is no home: it has no {MARK}. `avm store import HOME FILE` makes one.")
