"""File: large content that stays on disk, such as a dataset, a PDF or a log; it is hashed and read, never loaded.

A file is taken in one of two ways. Into a folder of ours (a home's `files`): what is there belongs to us, is named by
its digest, and nobody changes it. Or where it is: then it is only referred to, and others may change it at any time;
so its size, time of change and inode are remembered, and a read that finds others raises FileChanged.

Content is read with pread and hashed from one buffer, and mapped only for a `view` of a file of ours. A mapping costs
no copy, but whatever goes wrong with its file kills the process with SIGBUS, where pread gives an error: a file that
somebody else truncates between our check and our look, a bad sector, a network drive that is gone. Through a mapping
1 GiB is read no faster: a page fault for every few pages costs what the copy does. And what is mapped counts as ours
until it is given back, whereas pread leaves it with the system.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from avm.errors import CorruptBlob, FileChanged, MissingBlob, StoreError
from avm.memory.ceiling import format_size
from avm.memory.digest import Digest
from avm.memory.intake import READING, hash_file, open_source, put, unreadable

if TYPE_CHECKING:
    from typing import Self


@attrs.frozen
class Stamp:
    """What tells a changed file from the one that was taken: size in bytes, time of change in ns, inode.

    A change that leaves all three as they were goes unseen: one within the clock tick of the file system (up to 10 ms
    before Linux 6.13), or one whose author sets the time back. `File.verify` sees those too.
    """

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> Stamp:
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


@attrs.define(repr=False, unsafe_hash=True, on_setattr=attrs.setters.frozen)
class File:
    """Content in a file; equal if the digests are. Made by `take` and `find`. Any thread may read it.

    It holds nothing open between reads, so there may be any number of them.

    Attributes:
        digest: the blake3 of the content.
        size: bytes of the content.
        path: where it is, absolute.
        name: what the file was called when it was taken; empty if it was found by its digest.
        stamp: what it looked like when it was taken, if it is referred to; None if the file is ours.
    """

    digest: Digest
    size: int = attrs.field(eq=False)
    path: Path = attrs.field(eq=False)
    name: str = attrs.field(eq=False, default="")
    stamp: Stamp | None = attrs.field(eq=False, default=None)
    _maps: list[mmap.mmap] = attrs.field(eq=False, init=False, factory=list)
    _is_closed: bool = attrs.field(eq=False, init=False, default=False, on_setattr=attrs.setters.NO_OP)

    @classmethod
    def take(cls, path: str | Path, folder: Path | None = None) -> File:
        """Hash a file, and copy it if a folder is given. Waits for the disk: 1 GiB is hashed in about half a second.

        Args:
            path: a regular file, or a link to one.
            folder: where it is put under its digest; made if missing. Equal content is there once. Nobody else may
                put files there at the same time, except threads of this process; a home sees to that. The copy shares
                the blocks of the original where the file system can (btrfs, XFS). None leaves the file where it is.

        Raises:
            StoreError: there is no such file, it is no regular file, or it cannot be read.
            FileChanged: it was changed while it was hashed where it is. A copy is hashed itself and cannot change.
            ColdStoreError: the folder cannot be written.
        """
        path = Path(path).absolute()
        source = open_source(path)
        try:
            if folder is not None:
                digest, size = put(source, path, folder)
                return cls(digest, size, folder.absolute() / digest.hex(), path.name)
            stamp = Stamp.of(os.fstat(source))
            digest, size = hash_file(source, path)
            if size != stamp.size or Stamp.of(os.fstat(source)) != stamp:
                raise FileChanged(
                    f"{path} was changed while it was hashed. Put it when nobody writes to it.", str(path)
                )
            return cls(digest, size, path, path.name, stamp)
        finally:
            os.close(source)

    @classmethod
    def find(cls, digest: Digest, folder: Path) -> File:
        """Return the file of that digest in a folder that files were taken into. Its content is not looked at.

        Raises:
            MissingBlob: there is none.
        """
        path = folder.absolute() / digest.hex()
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise _missing(digest, path) from error
        except OSError as error:
            raise unreadable(path, error) from error
        if not stat.S_ISREG(found.st_mode):
            raise _missing(digest, path)
        return cls(digest, found.st_size, path)

    def read(self, offset: int = 0, size: int = -1) -> bytes:
        """Return `size` bytes from `offset` on; fewer if the content ends before. A negative `size` is all of the rest.

        Raises:
            ValueError: `offset` is negative, or the file is closed.
            FileChanged: a file that is referred to is gone, or not what it was when it was taken.
            MissingBlob, CorruptBlob: a file of ours is gone, or has another size.
            ColdStoreError: the disk refuses.
        """
        begin, end = self._range(offset, size)
        with self._opened() as file:
            found = _read(file, self.path, begin, end)
            # Again, since it may have been changed between the first look and the read.
            self._check(os.fstat(file))
        return found

    def chunks(self, size: int = 1 << 20) -> Iterator[bytes]:
        """Return the content in pieces of `size` bytes; the last may be shorter. Errors are those of `read`."""
        if size < 1:
            raise ValueError(f"size must be at least 1 byte, got {size}.")
        return (self.read(offset, size) for offset in range(0, self.size, size))

    def lines(self) -> Iterator[bytes]:
        """Return the lines, each with its b"\\n", which only the last may lack. Errors are those of `read`.

        A line is one object, so a file of 1 GiB without a b"\\n" takes that much memory twice; use `chunks` for those.
        """
        begun: list[bytes] = []
        for chunk in self.chunks():
            for piece in io.BytesIO(chunk):
                if not piece.endswith(b"\n"):
                    begun.append(piece)
                elif begun:
                    yield b"".join((*begun, piece))
                    begun = []
                else:
                    yield piece
        if begun:
            yield b"".join(begun)

    @contextlib.contextmanager
    def view(self, offset: int = 0, size: int = -1) -> Iterator[memoryview]:
        """Map a range, counted as in `read`, for the length of a with block; of a file that is referred to, copy it.

        Pages that are looked at count as memory of this process until the block ends or `release` is called. Errors
        are those of `read`, when the block begins. A disk that fails after that kills the process.
        """
        begin, end = self._range(offset, size)
        # Empty ranges cannot be mapped; and files of others may be truncated while we look.
        if self.stamp is not None or begin == end:
            yield memoryview(self.read(begin, end - begin))
            return
        base = begin - begin % mmap.ALLOCATIONGRANULARITY
        with self._opened() as file:
            mapped = _map(file, self.path, base, end)
        self._maps.append(mapped)
        view = memoryview(mapped)[begin - base :]
        try:
            yield view
        finally:
            self._maps.remove(mapped)
            # Slices of the view, and arrays over it, that are still held keep the mapping until they are dropped.
            with contextlib.suppress(BufferError):
                view.release()
                mapped.close()

    def verify(self) -> None:
        """Hash the content again; takes as long as `take`.

        Raises:
            CorruptBlob: it is not what its digest says.
            FileChanged, MissingBlob, ColdStoreError: as in `read`.
        """
        with self._opened() as file:
            found, _ = hash_file(file, self.path)
            self._check(os.fstat(file))
        if found != self.digest:
            raise self._corrupt(f"content {found}", f"{self.digest}")

    def release(self) -> None:
        """Give the pages of open views back to the system; they come again from the disk when they are looked at."""
        for mapped in tuple(self._maps):
            # Closed meanwhile, by another thread.
            with contextlib.suppress(ValueError):
                if hasattr(mmap, "MADV_DONTNEED"):
                    mapped.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """End the use of it: whatever reads it then gets a ValueError. Open views stay. May be called again."""
        self._is_closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"File({', '.join(filter(None, (repr(self.digest), format_size(self.size), self.name)))})"

    def _range(self, offset: int, size: int) -> tuple[int, int]:
        if offset < 0:
            raise ValueError(f"offset must be 0 or more bytes, got {offset}.")
        begin = min(offset, self.size)
        return begin, self.size if size < 0 else min(begin + size, self.size)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Open it for a with block, and look whether it is what it was."""
        if self._is_closed:
            raise ValueError(f"{self!r} is closed; take or find it again.")
        try:
            file = os.open(self.path, READING)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise self._gone() from error
        except OSError as error:
            raise unreadable(self.path, error) from error
        try:
            self._check(os.fstat(file))
            yield file
        finally:
            os.close(file)

    def _check(self, found: os.stat_result) -> None:
        if self.stamp is None and found.st_size != self.size:
            raise self._corrupt(f"{found.st_size} bytes", f"{self.size}")
        if self.stamp is not None and self.stamp != Stamp.of(found):
            raise FileChanged(
                f"{self.path} was changed or replaced after it was put as {self.digest}: it had {self.stamp}, "
                f"now {Stamp.of(found)}. Put it again; in a home, files are copied when they are put.",
                str(self.path),
            )

    def _gone(self) -> StoreError:
        if self.stamp is None:
            return _missing(self.digest, self.path)
        return FileChanged(
            f"{self.path} is gone; it was put as {self.digest}. Bring it back, or put it again.",
            str(self.path),
        )

    def _corrupt(self, found: str, expected: str) -> CorruptBlob:
        return CorruptBlob(
            f"{self.path} has {found}, expected {expected}: damaged, or changed by somebody. Put the file again.",
            self.digest.hex(),
            str(self.path),
        )


def _read(file: int, path: Path, begin: int, end: int) -> bytes:
    """Return a range of an open file, shorter only if the file is."""
    parts: list[bytes] = []
    # One call gives up to 2 GiB, on Linux.
    while begin < end:
        try:
            part = os.pread(file, end - begin, begin)
        except OSError as error:
            raise unreadable(path, error) from error
        if not part:
            break
        parts.append(part)
        begin += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _map(file: int, path: Path, begin: int, end: int) -> mmap.mmap:
    """Map a range of an open file; it stays mapped when the file is closed."""
    try:
        return mmap.mmap(file, end - begin, access=mmap.ACCESS_READ, offset=begin)
    except OSError as error:
        raise unreadable(path, error) from error


def _missing(digest: Digest, path: Path) -> MissingBlob:
    return MissingBlob(f"no file {digest} at {path}: never put here, or somebody removed it. Put it again.")
