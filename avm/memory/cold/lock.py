"""Lock: the file by which a home has one owner, and by which others can tell who that is.

The lock belongs to the open file, so it is gone when the process is, however it ends; the text stays behind and means
nothing without the lock.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import shlex
import sys
from pathlib import Path

from avm.errors import HomeError, HomeInUse

try:
    import fcntl
except ImportError:  # Windows, WebAssembly
    fcntl = None  # type: ignore[assignment]

HAS_FLOCK = fcntl is not None

LOCK = "lock"

TEXT = re.compile(rb"(scratch of )?process \d+ on ")
"""How the text of a lock file of ours begins."""


def take_lock(path: Path, holder: str) -> int:
    """Return the open lock file of a home, locked; it says who holds it. Whoever closes it lets go of the home.

    Raises:
        HomeInUse: another process holds it, or this one does. HomeError: the system refuses.
    """
    while True:
        try:
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        except OSError as error:
            raise refused(path, "cannot be written", error, "Open it with read_only=True, or") from error
        try:
            _lock_file(path, lock)
            # A lock on a file that was removed meanwhile keeps nobody out.
            if os.path.samestat(os.fstat(lock), os.stat(path / LOCK)):
                break
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
    # The text is a courtesy: on a full disk a home can still be opened, to make room in it.
    with contextlib.suppress(OSError):
        _write_text(lock, holder.encode("utf-8", "replace"))
    return lock


def _lock_file(path: Path, lock: int) -> None:
    try:
        try_lock(lock)
    except (BlockingIOError, PermissionError) as error:
        raise _in_use(path, lock) from error
    except OSError as error:
        raise refused(path, "cannot be locked", error) from error


def try_lock(lock: int) -> None:
    """Lock an open file for this process alone, or raise OSError at once; where there are no locks, do nothing."""
    if fcntl is not None:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    elif sys.platform == "win32":
        import msvcrt

        # Nobody else can read what is locked there, so lock a byte far behind the text.
        os.lseek(lock, 1 << 30, os.SEEK_SET)
        msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)


def _write_text(lock: int, text: bytes) -> None:
    os.lseek(lock, 0, os.SEEK_SET)
    os.write(lock, text)
    os.ftruncate(lock, len(text))


def read_text(lock: int) -> bytes:
    """Return what an open lock file says of its holder."""
    os.lseek(lock, 0, os.SEEK_SET)
    return os.read(lock, 4096)


def myself() -> str:
    """Return what a lock file says of this process: its id, the machine, since when, and the command line."""
    import platform

    command = " ".join(shlex.join(sys.orig_argv).split())
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return f"process {os.getpid()} on {platform.node()} since {since}: {command[:200]}"


# Errors.


def _in_use(path: Path, lock: int) -> HomeInUse:
    holder = read_text(lock).decode("utf-8", "replace") or "a process that has not said who it is"
    return HomeInUse(
        f"home {path} is in use by {holder}. "
        "Stop that process or close the home there; or open it with read_only=True, or open another directory.",
        str(path),
        holder,
    )


def refused(path: Path, what: str, error: OSError, advice: str = "Repair that, or") -> HomeError:
    """Return the error of a home, or of a file in it, that the system refuses."""
    return HomeError(f"{path} {what}: {error.strerror or error}. {advice} open another directory.", str(path))
