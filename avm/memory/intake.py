"""Intake: how a file is taken: opened, hashed piece by piece, and copied into a folder under its digest.

A folder has one owner. What is in it under a digest is whole: a copy has another name until it is on the disk.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from avm.errors import ColdStoreError, StoreError
from avm.memory.cold.home import sync_folder
from avm.memory.digest import Digest

try:
    import fcntl
except ImportError:  # Windows, WebAssembly
    fcntl = None  # type: ignore[assignment]

PIECE = 4 << 20
"""Bytes that are hashed or copied at a time; with them a process grows, whatever the size of the file."""

_FICLONE = 0x40049409
"""The ioctl of Linux by which a file gets the content of another without copying (btrfs, XFS)."""

_RUN = secrets.token_hex(4)
"""How the unfinished copies of this process begin: a folder has one owner, so all others are of dead ones."""

UNFINISHED = ".unfinished"
"""How the names of copies end that are being made, or were when their process was killed."""

# Without O_NONBLOCK the opening of a pipe would wait for a writer.
READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_source(path: Path) -> int:
    """Open a file that is to be taken, and return its descriptor.

    Raises:
        StoreError: there is no such file, it is no regular file, or it cannot be opened.
    """
    try:
        # First by name: to open a device may already do something to it.
        _require_regular(path, os.stat(path).st_mode)
        source = os.open(path, READING)
    except OSError as error:
        raise StoreError(f"{path} cannot be put: {error.strerror}. Give a file that can be read.") from error
    try:
        _require_regular(path, os.fstat(source).st_mode)
    except StoreError:
        os.close(source)
        raise
    return source


def _require_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = "directory" if stat.S_ISDIR(mode) else "pipe" if stat.S_ISFIFO(mode) else "device or socket"
        raise StoreError(
            f"{path} cannot be put: it is a {kind}, not a regular file. Give a file, or put its bytes."
        )


def _pieces(file: int, path: Path) -> Iterator[memoryview]:
    """Return the content of an open file from its beginning, piece by piece in one buffer."""
    buffer = memoryview(bytearray(PIECE))
    os.lseek(file, 0, os.SEEK_SET)
    while True:
        try:
            size = os.readv(file, [buffer])
        except OSError as error:
            raise unreadable(path, error) from error
        if size == 0:
            return
        yield buffer[:size]


def hash_file(file: int, path: Path) -> tuple[Digest, int]:
    """Return the digest of an open file and how many bytes went into it. ColdStoreError if it cannot be read."""
    hasher, size = blake3(), 0
    for piece in _pieces(file, path):
        hasher.update(piece)
        size += len(piece)
    return Digest(hasher.digest()), size


# Into a folder.


def put(source: int, path: Path, folder: Path) -> tuple[Digest, int]:
    """See to it that the content of an open file is in a folder, and return its digest and size.

    Args:
        source: the file; `path` is what errors call it.
        folder: made if missing. Equal content is there once.

    Raises:
        ColdStoreError: the folder cannot be written, or the file not be read.
    """
    try:
        _prepare(folder)
        return _found_again(source, path, folder) or _copy(source, path, folder)
    except OSError as error:
        raise ColdStoreError(
            f"{path} cannot be copied to {folder}: {error.strerror}. What was there before is whole; "
            "make room or repair that, and put it again.",
            str(folder),
        ) from error


def _found_again(source: int, path: Path, folder: Path) -> tuple[Digest, int] | None:
    """Return the digest and size of an open file whose content is in the folder, whole; None if it is not.

    To read both costs a fifth of another copy; and where no file has that size, nothing is read.
    """
    if not _has_size(folder, os.fstat(source).st_size):
        return None
    digest, size = hash_file(source, path)
    with contextlib.suppress(FileNotFoundError, StoreError), (folder / digest.hex()).open("rb", 0) as kept:
        if hash_file(kept.fileno(), folder)[0] == digest:
            return digest, size
    return None


def _has_size(folder: Path, size: int) -> bool:
    with os.scandir(folder) as entries:
        for entry in entries:
            # Another thread may have finished, or dropped, a file meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if entry.stat().st_size == size:
                    return True
    return False


def _copy(source: int, path: Path, folder: Path) -> tuple[Digest, int]:
    """Copy an open file into a folder, under the digest of what the copy holds. A damaged file there is replaced."""
    copy, unfinished = tempfile.mkstemp(UNFINISHED, f"{_RUN}-", folder)
    try:
        try:
            digest, size = (
                hash_file(copy, path) if _reflink(source, copy) else _copy_pieces(source, path, copy)
            )
            os.fchmod(copy, 0o444)
            os.fsync(copy)
        finally:
            os.close(copy)
        os.replace(unfinished, folder / digest.hex())
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(unfinished)
        raise
    sync_folder(folder)
    return digest, size


def _prepare(folder: Path) -> None:
    """Make the folder if it is missing, and remove what processes that were killed left unfinished in it."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
    for name in os.listdir(folder):
        if name.endswith(UNFINISHED) and not name.startswith(_RUN):
            (folder / name).unlink(missing_ok=True)


def _reflink(source: int, copy: int) -> bool:
    """Let an empty file share the blocks of another, if the file system can; say whether it did."""
    if fcntl is None:
        return False
    try:
        fcntl.ioctl(copy, _FICLONE, source)
    except OSError:
        return False
    return True


def _copy_pieces(source: int, path: Path, copy: int) -> tuple[Digest, int]:
    """Copy piece by piece, and hash each as it is written.

    os.copy_file_range would not be faster: to be hashed the content has to come through memory in any case.
    """
    hasher, size = blake3(), 0
    for piece in _pieces(source, path):
        hasher.update(piece)
        size += len(piece)
        while piece:
            piece = piece[os.write(copy, piece) :]
    return Digest(hasher.digest()), size


def files_in(folder: Path) -> list[Path]:
    """Return the files of a folder by name, also unfinished ones; none if there is no folder."""
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except (FileNotFoundError, NotADirectoryError):
        return []


def unreadable(path: Path, error: OSError) -> ColdStoreError:
    """Return the error of a file that the system does not let us read."""
    return ColdStoreError(
        f"{path} cannot be read: {error.strerror}. Repair the disk or the permissions.", str(path)
    )
