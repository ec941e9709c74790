"""Scribbles: a home whose files are cut short or overwritten. What is read of it is right, or an error says so."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from victim import digest

from avm.errors import ColdStoreError, CorruptBlob, HomeError, MissingBlob
from avm.memory import Conversation, Store

ALLOWED = (CorruptBlob, ColdStoreError, MissingBlob, HomeError)
LONGEST = 20.0
"""Seconds after which a child that looks at a home hangs."""

Damage = Callable[[Path, random.Random], str]


def make_home(home: Path, cold: str, texts: Sequence[Any], names: int) -> dict[str, tuple[str, str]]:
    """Make a home with so many conversations, and return the digests of each and of the version before it."""
    expected = {}
    with Store.open(home, cold=cold, durable=False) as store:
        for number in range(names):
            made = Conversation.new(store, texts[number % 3]["content"], [{"name": "book"}], {"n": number})
            made = made.extend(texts[(number * 7 + at) % len(texts)] for at in range(3 + number % 30))
            store.roots.commit(f"agent-{number}", made).result()
            before = digest(made)
            # The last message comes in a segment of its own.
            made = made.append(texts[number % len(texts)])
            store.roots.commit(f"agent-{number}", made)
            expected[f"agent-{number}"] = digest(made), before
    return expected


# Ways to damage a file.


def truncate(file: Path, chance: random.Random) -> str:
    """Cut it short."""
    size = chance.randrange(file.stat().st_size + 1)
    os.truncate(file, size)
    return f"cut to {size}"


def flip(file: Path, chance: random.Random) -> str:
    """Change one bit in each of a few bytes."""
    places = [chance.randrange(file.stat().st_size) for _ in range(chance.choice((1, 3, 30)))]
    with file.open("r+b") as out:
        for at in places:
            out.seek(at)
            old = out.read(1)[0]
            out.seek(at)
            out.write(bytes([old ^ 1 << chance.randrange(8)]))
    return f"bits at {places[:3]}"


def scribble(file: Path, chance: random.Random) -> str:
    """Write noise over a piece of it."""
    size = chance.choice((1, 16, 512, 4096, 40_000))
    at = chance.randrange(file.stat().st_size)
    with file.open("r+b") as out:
        out.seek(at)
        out.write(chance.randbytes(min(size, file.stat().st_size - at)))
    return f"noise of {size} at {at}"


def zero(file: Path, chance: random.Random) -> str:
    """Write zeros over whole pages."""
    pages = max(file.stat().st_size // 4096, 1)
    at = chance.randrange(pages)
    with file.open("r+b") as out:
        out.seek(at * 4096)
        out.write(bytes(4096 * chance.choice((1, 8))))
    return f"zeros from page {at}"


def swap(file: Path, chance: random.Random) -> str:
    """Exchange two pages."""
    content = bytearray(file.read_bytes())
    pages = max(len(content) // 4096, 1)
    one, two = (chance.randrange(pages) * 4096 for _ in range(2))
    content[one : one + 4096], content[two : two + 4096] = (
        content[two : two + 4096],
        content[one : one + 4096],
    )
    file.write_bytes(content)
    return f"pages {one // 4096} and {two // 4096} exchanged"


def append(file: Path, chance: random.Random) -> str:
    """Add noise at the end."""
    with file.open("ab") as out:
        out.write(chance.randbytes(chance.choice((1, 4096, 10_000))))
    return "noise at the end"


WAYS: tuple[Damage, ...] = (truncate, flip, flip, flip, scribble, scribble, zero, swap, append)


def damage(home: Path, chance: random.Random) -> str:
    """Damage one file of a home; return how."""
    files = sorted(path for path in home.rglob("*") if path.is_file() and path.stat().st_size)
    largest = max(files, key=lambda path: path.stat().st_size)
    file = largest if chance.random() < 0.9 else chance.choice(files)
    return f"{file.name}: {chance.choice(WAYS)(file, chance)}"


# Looking at a damaged home, in a child: it may hang, or die with the file it has mapped.


def look_at(
    home: Path, cold: str, expected: dict[str, tuple[str, str]], texts: Sequence[Any]
) -> Counter[str]:
    """Use a home as anybody would, and count what comes of it."""
    found: Counter[str] = Counter()
    try:
        store = Store.open(home, cold=cold, durable=False)
    except ALLOWED as error:
        return Counter({"not opened: " + type(error).__name__: 1})
    for name, (right, older) in expected.items():
        try:
            conversation = store.roots.get(name)
            if conversation is None:
                found["missing without an error"] += 1
            else:
                what = {right: "right", older: "older without an error"}
                found[what.get(digest(conversation), "WRONG CONTENT")] += 1
        except ALLOWED as error:
            found[type(error).__name__] += 1
    for number in range(3):
        try:
            made = Conversation.new(store, "a prompt").extend(texts[number : number + 5])
            store.roots.commit(f"agent-{number}", made).result()
            store.roots.release(f"agent-{number}")
            again = store.roots.get(f"agent-{number}")
            assert again is not None
            found["written" if digest(again) == digest(made) else "WRONG CONTENT after writing"] += 1
        except ALLOWED as error:
            found["not written: " + type(error).__name__] += 1
    try:
        list(store.roots)
        store.need_archive().sweep().future.result()
    except ALLOWED as error:
        found["not swept: " + type(error).__name__] += 1
    store.close()
    return found


def in_a_child(work: Callable[[], Counter[str]]) -> Counter[str]:
    """Do something in a child process; an exception, a hang and a death are counted too."""
    readable, writable = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(readable)
            try:
                found = work()
            except BaseException as error:
                found = Counter({f"OTHER EXCEPTION {type(error).__name__}: {error}"[:300]: 1})
            os.write(writable, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(writable)
    try:
        ready, _, _ = select.select([readable], [], [], LONGEST)
        said = os.read(readable, 1 << 16) if ready else b""
    finally:
        os.close(readable)
    if not ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not ready:
        return Counter({"HANGS": 1})
    if not said:
        return Counter({f"DIED of signal {os.WTERMSIG(status)}": 1})
    return Counter(json.loads(said))


def scribble_again_and_again(
    n: int, cold: str, folder: Path, texts: Sequence[Any], names: int = 30
) -> tuple[Counter[str], list[str]]:
    """Damage a sound home in so many ways; return the counts, and how what is bad came about."""
    sound = folder / f"sound-{cold}"
    expected = make_home(sound, cold, texts, names)
    counts: Counter[str] = Counter()
    notes = []
    for number in range(n):
        hurt = folder / f"hurt-{cold}"
        shutil.copytree(sound, hurt)
        how = damage(hurt, random.Random(number))
        found = in_a_child(lambda: look_at(hurt, cold, expected, texts))  # noqa: B023
        counts += found
        bad = [what for what in found if what[:4].isupper() or what.endswith("without an error")]
        if bad:
            notes.append(f"{number} {how}: {', '.join(bad)}")
        shutil.rmtree(hurt)
    return counts, notes


if __name__ == "__main__":
    import sys
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        began = time.perf_counter()
        messages = [{"role": "user", "content": f"{at} " + "some words " * (at * 5)} for at in range(200)]
        for line in scribble_again_and_again(int(sys.argv[1]), sys.argv[2], Path(place), messages):
            print(line)
        print(time.perf_counter() - began)
