"""Home: a directory on disk that one process owns while it has it open; what avm keeps there outlives the process.

    avm.json        the format, the kind of cold store, and who made it; written once, whole or not at all
    lock            held by the owner; says who that is
    cold.sqlite3    or cold.lmdb: the cold store
    files/          large files, each named by its digest; made when the first one comes

Opening goes in this order: make the directory, read avm.json, refuse what is not ours, take the lock, write avm.json
if there was none. Nothing is written before the lock is held, and nothing among files of other programs. A process
that is killed on the way leaves at most the lock file and an unfinished avm.json, and the next one goes on from there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import msgspec

from avm.errors import HomeError, HomeTooNew
from avm.memory.cold.lock import HAS_FLOCK, LOCK, TEXT, myself, read_text, refused, take_lock, try_lock

if TYPE_CHECKING:
    from typing import Self

FORMAT = 1
"""The format of homes that this avm writes, and the highest it reads."""

KINDS = {"sqlite": "cold.sqlite3", "lmdb": "cold.lmdb"}
"""Kinds of cold stores, and the names they have in a home."""

MARK = "avm.json"
UNFINISHED = "avm.json.unfinished"

SCRATCH = "avm-scratch-"
"""How the names of scratch homes begin, in the system's folder of temporary files."""


@attrs.define(eq=False)
class Home:
    """A home that is open. Made by `open` and `scratch`.

    After `os.fork` it is open in the parent alone: the child would otherwise hold the lock for as long as it lives.

    Attributes:
        path: the directory, absolute.
        kind: the kind of its cold store, "sqlite" or "lmdb".
        format: the format it is written in.
        read_only: it was opened to be read only; then it may have another owner.
    """

    path: Path
    kind: str
    format: int
    read_only: bool
    _lock: int | None = attrs.field(repr=False)
    _is_scratch: bool = attrs.field(default=False, repr=False)
    _end: weakref.finalize[[int, Path | None, int], Home] | None = attrs.field(
        init=False, default=None, repr=False
    )

    def __attrs_post_init__(self) -> None:
        if self._lock is not None:
            # Also for a home that is forgotten, or open when the interpreter ends.
            folder = self.path if self._is_scratch else None
            self._end = weakref.finalize(self, _let_go, self._lock, folder, os.getpid())
            _OWNED.add(self)

    @classmethod
    def open(cls, path: str | Path, *, kind: str | None = None, read_only: bool = False) -> Home:
        """Open the home in a directory; an empty or missing directory becomes one.

        Args:
            path: the directory; it is made with its parents.
            kind: the cold store it must have, "sqlite" or "lmdb". None takes what it has, "sqlite" for a new one.
            read_only: write nothing and take no lock, so it works beside an owner and without permission to write.
                Then the home must be there.

        Raises:
            HomeInUse: it is open already, in another process or in this one.
            HomeTooNew: a newer avm has written it.
            HomeError: it is no directory, or holds files of others, or has another kind, or the system refuses.
            ValueError: there is no such kind.
        """
        if kind is not None and kind not in KINDS:
            raise ValueError(f"kind must be 'sqlite' or 'lmdb', got {kind!r}.")
        path = Path(path).absolute()
        if not read_only:
            _make_folder(path)
        mark = _read_mark(path)
        _check(path, mark, kind)
        if read_only:
            if mark is None:
                raise HomeError(
                    f"there is no home in {path}: it has no {MARK}. Open it without read_only first.",
                    str(path),
                )
            return cls(path, mark.cold, mark.format, True, None)
        if mark is None:
            _refuse_foreign(path)
        return cls._owned(path, kind, take_lock(path, myself()))

    @classmethod
    def scratch(cls) -> Home:
        """Make a temporary home, in the system's folder of temporary files (TMPDIR).

        It is removed when it is closed, and at the end of the interpreter. If the process is killed, it is removed
        when the next scratch home is made by the same user.

        Raises:
            HomeError: the system refuses.
        """
        parent = Path(tempfile.gettempdir())
        try:
            _sweep(parent)
            folder = Path(tempfile.mkdtemp(prefix="avm-new-", dir=parent))
            lock = take_lock(folder, "scratch of " + myself())
            # Under the name that is swept it is only seen with its lock held. Windows would refuse: the lock is open.
            path = folder.with_name(f"{SCRATCH}{os.getpid()}-{folder.name.removeprefix('avm-new-')}")
            path = folder.rename(path) if HAS_FLOCK else folder
        except OSError as error:
            raise refused(parent, "cannot hold a scratch home", error) from error
        return cls._owned(path, None, lock, is_scratch=True)

    @classmethod
    def _owned(cls, path: Path, kind: str | None, lock: int, *, is_scratch: bool = False) -> Home:
        try:
            # Another process may have made it before we got the lock.
            mark = _read_mark(path)
            _check(path, mark, kind)
            mark = mark or _write_mark(path, kind or "sqlite")
        except BaseException:
            _let_go(lock, path if is_scratch else None, os.getpid())
            raise
        return cls(path, mark.cold, mark.format, False, lock, is_scratch)

    @property
    def cold_path(self) -> Path:
        """Where the cold store is, or will be."""
        return self.path / KINDS[self.kind]

    @property
    def files(self) -> Path:
        """The folder of large files; it is there as soon as the first has been taken."""
        return self.path / "files"

    def is_there(self) -> bool:
        """Tell whether the directory is still the one that was opened: not deleted, and no other in its place."""
        if self._lock is None:
            return True
        try:
            return os.path.samestat(os.fstat(self._lock), os.stat(self.path / LOCK))
        except OSError:
            return False

    def close(self) -> None:
        """Let go of the lock; a scratch home is removed. May be called again."""
        if self._end is not None:
            self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


# A forked child inherits the lock with the open file, and would keep it when the owner has died.
_OWNED: weakref.WeakSet[Home] = weakref.WeakSet()


def _close_in_child() -> None:
    for home in list(_OWNED):
        home.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def sync_folder(path: Path) -> None:
    """Bring the entries of a folder to the disk; where folders cannot be opened (Windows), nothing happens."""
    with contextlib.suppress(PermissionError):
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


# The directory.


def _make_folder(path: Path) -> None:
    try:
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
            sync_folder(path.parent)
    except (FileExistsError, NotADirectoryError) as error:
        raise refused(path, "is not a directory", error) from error
    except OSError as error:
        raise refused(path, "cannot be made", error) from error


def _refuse_foreign(path: Path) -> None:
    """Raise if a directory without avm.json holds more than what our own half-made home leaves."""
    try:
        found = sorted(set(os.listdir(path)) - {UNFINISHED})
        if LOCK in found and TEXT.match((path / LOCK).read_bytes() or b"process 0 on "):
            found.remove(LOCK)
        # Between our two looks another process may have made the home.
        if found and not (path / MARK).exists():
            raise HomeError(
                f"{path} is no home: it has no {MARK}, but {len(found)} entries of others, such as {found[0]!r}. "
                "Give an empty or new directory.",
                str(path),
            )
    except OSError as error:
        raise refused(path, "cannot be read", error) from error


# What avm.json says.


class _Format(msgspec.Struct):
    """What every format says, also those to come."""

    format: int
    made_by: str = "an unknown version"


class _Mark(_Format, kw_only=True):
    cold: str


def _read_mark(path: Path) -> _Mark | None:
    """Return what avm.json says, None if there is none."""
    try:
        text = (path / MARK).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise refused(path / MARK, "cannot be read", error) from error
    try:
        found = msgspec.json.decode(text, type=_Format)
        if found.format > FORMAT:
            raise _too_new(path, found)
        mark = msgspec.json.decode(text, type=_Mark)
    except ValueError as error:
        raise _garbled(path, str(error)) from error
    if mark.format < 1 or mark.cold not in KINDS:
        raise _garbled(path, f"format {mark.format}, cold {mark.cold!r}")
    return mark


def _check(path: Path, mark: _Mark | None, kind: str | None) -> None:
    if mark is not None and kind not in (None, mark.cold):
        raise HomeError(
            f"home {path} keeps its content in {mark.cold}, not in {kind} as asked. "
            f"Leave kind out or give {mark.cold!r}, or open another home.",
            str(path),
        )


def _write_mark(path: Path, kind: str) -> _Mark:
    """Write avm.json under another name, and give it its own when it is on the disk."""
    mark = _Mark(format=FORMAT, cold=kind, made_by=f"avm {_version()}")
    fields = {"format": mark.format, "cold": mark.cold, "made_by": mark.made_by}
    unfinished = path / UNFINISHED
    try:
        with unfinished.open("wb") as file:
            file.write(msgspec.json.encode(fields) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path / MARK)
        sync_folder(path)
    except OSError as error:
        raise refused(path, "cannot be written", error) from error
    return mark


def _version() -> str:
    # Here, since it takes longer to import than all of this package.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("avm-runtime")
    except PackageNotFoundError:
        return "of unknown version"


# Letting go.


def _let_go(lock: int, scratch: Path | None, owner: int) -> None:
    """Close a lock, and remove the scratch home it was of; in a child of the owner only close it."""
    # The lock is left by closing: unlocking it would, in a forked child, take it from the parent.
    try:
        if scratch is not None and os.getpid() == owner:
            _remove(scratch)
    finally:
        os.close(lock)


# Scratch homes.


def _sweep(parent: Path) -> None:
    """Remove the scratch homes of this user whose owners are dead: their locks are free."""
    # Without flock a living owner could not be told from a dead one.
    if not HAS_FLOCK:
        return
    with os.scandir(parent) as entries:
        found = [entry for entry in entries if entry.name.startswith(SCRATCH)]
    for entry in found:
        # Gone meanwhile, or not ours to look at, or its owner lives.
        with contextlib.suppress(OSError):
            if (
                entry.is_dir(follow_symlinks=False)
                and entry.stat(follow_symlinks=False).st_uid == os.geteuid()
            ):
                _remove_if_dead(Path(entry.path))


def _remove_if_dead(folder: Path) -> None:
    lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    try:
        try_lock(lock)
        # A folder that someone only named like this, or a scratch home that was opened to be kept, is left alone.
        if read_text(lock).startswith(b"scratch of process "):
            _remove(folder)
    finally:
        os.close(lock)


def _remove(folder: Path) -> None:
    """Remove a scratch home, its lock last: whoever finds what is left can tell by it that it may go."""
    for name in [name for name in os.listdir(folder) if name != LOCK]:
        shutil.rmtree(folder / name, ignore_errors=True)
        with contextlib.suppress(OSError):
            os.unlink(folder / name)
    shutil.rmtree(folder, ignore_errors=True)


# Errors.


def _garbled(path: Path, found: str) -> HomeError:
    return HomeError(
        f"{path / MARK} is damaged, or not of avm: {found}. Expected format, cold and made_by. "
        "Restore it from a backup, or open another directory.",
        str(path),
    )


def _too_new(path: Path, found: _Format) -> HomeTooNew:
    return HomeTooNew(
        f"home {path} has format {found.format}, written by {found.made_by}; this is avm {_version()}, which reads "
        f"formats up to {FORMAT}. Install the avm that wrote it or a newer one, or open another directory.",
        str(path),
        found.format,
    )
