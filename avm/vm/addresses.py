"""Finding an actor by what a person writes: a registered name, a path, or an id that only one actor has."""

from __future__ import annotations

import difflib

from avm.actors.kernel import Kernel
from avm.actors.ref import Ref
from avm.errors import NoSuchActor

NEAR = 3


def find(kernel: Kernel, key: str) -> Ref:
    """Return the ref of the living actor that `key` means.

    Raises:
        NoSuchActor: nobody, or several; the text names what may have been meant.
    """
    found = kernel.resolve(key) if isinstance(key, str) else None
    if found is not None:
        return Ref(found)
    if not isinstance(key, str):
        raise NoSuchActor(f"an actor is found by text (a name, a path or an id), got {key!r}.")
    paths = tuple(cell.path for cell in kernel.places(key))
    if paths:
        raise NoSuchActor(
            f"{key!r} is the id of {len(paths)} actors: {', '.join(paths)}. Use one of these paths.", paths
        )
    near = _near(kernel, key)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    raise NoSuchActor(f"no actor has the name, path or id {key!r}.{hint}", near)


def _near(kernel: Kernel, key: str) -> tuple[str, ...]:
    known: dict[str, str] = {}
    for cell in kernel.cells():
        path = cell.path
        known.setdefault(path, path)
        known.setdefault(cell.id_text, path)
        for name in kernel.names.names_of(cell):
            if isinstance(name, str):
                known.setdefault(name, name)
    close = difflib.get_close_matches(key, known, NEAR, 0.6)
    # The last part of a path that was written wrongly higher up is often right.
    tail = key.rpartition("/")[2]
    if tail in known and tail != key:
        close.insert(0, tail)
    return tuple(dict.fromkeys(known[c] for c in close))[:NEAR]
