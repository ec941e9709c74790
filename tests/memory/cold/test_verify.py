"""Going through a home: what is sound is counted, each kind of damage is found and told with its name and its file."""

import random
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import attrs
import pytest

from avm.errors import ColdStoreError, CorruptBlob, MissingBlob
from avm.memory import Conversation, Store
from avm.memory.cold import records
from avm.memory.cold import verify as verify_module
from avm.memory.cold.home import Home
from avm.memory.cold.lookup import Lookup
from avm.memory.cold.opening import compact, disk_bytes, open_cold
from avm.memory.cold.readback import read_back
from avm.memory.cold.records import conversation_id, segment_key
from avm.memory.cold.survey import survey
from avm.memory.cold.verify import Problem, verify
from tests.memory.cold.opened import Opened, said

# What is sound.


def test_of_a_sound_home_everything_is_counted(opened):
    report = opened.verify()

    assert report.is_sound
    assert (report.conversations, report.messages, report.unreadable) == (4, 25 + 26 + 3, 0)
    # Prompt, tools, body, two pages, and two tails: `same` has one message more.
    assert (report.records, report.orphans, report.segments) == (7, 0, 3)
    assert report.edges == 6 + 6 + 1
    assert (report.dictionaries, report.quarantined, report.files, report.more) == (0, 0, 0, 0)


def test_an_empty_home_is_sound(tmp_path):
    Store.open(tmp_path / "new").close()

    with Opened(tmp_path / "new") as opened:
        assert opened.verify().is_sound
        found = survey(opened.cold, opened.home.path)
    assert (found.conversations, found.dedup, found.compression) == (0, 0.0, 1.0)


def test_an_lmdb_home_is_checked_and_made_smaller_alike(tmp_path):
    pytest.importorskip("lmdb")
    with Store.open(tmp_path / "home", cold="lmdb", durable=False) as store:
        for n in range(20):
            store.roots.commit(f"c{n}", Conversation(store).append(said(n, 100_000)))
    with Opened(tmp_path / "home") as opened:
        opened.cold.commit([("record", key, None) for key, _ in opened.cold.scan("record", b"", 19)])
        before = opened.verify()
        opened.cold.close()
        size = disk_bytes(opened.home.path)
        compact(opened.home)
        opened.cold = open_cold(opened.home)

        assert len(before.problems) == 19
        assert opened.verify() == before
        assert disk_bytes(opened.home.path) < size / 3


def test_one_value_at_a_time_is_in_memory(opened, monkeypatch):
    read, scan = opened.cold.read, opened.cold.scan

    def read_one(table, keys):
        assert len(keys) == 1
        return read(table, keys)

    def scan_keys(table, after=b"", limit=1000, *, values=True):
        assert not values
        return scan(table, after, limit, values=False)

    monkeypatch.setattr(opened.cold, "read", read_one)
    monkeypatch.setattr(opened.cold, "scan", scan_keys)

    assert opened.verify().is_sound
    assert survey(opened.cold, opened.home.path).conversations == 4


def test_progress_goes_from_the_beginning_to_the_end_of_each_table(opened):
    told = {}
    verify(opened.cold, opened.home.files, lambda what, part: told.setdefault(what, []).append(part))

    assert list(told) == ["conversations", "segments", "dictionaries", "records", "edges", "quarantine"]
    assert all(parts == sorted(parts) and parts[-1] == 1.0 for parts in told.values())


# Content that is damaged.


def test_a_damaged_record_is_told_with_its_digest_its_file_and_who_needs_it(opened):
    key = opened.manifest("long").pages[1].key
    opened.flip("record", key)

    report = opened.verify()

    (problem,) = report.problems
    assert (problem.kind, problem.name, problem.path) == ("record", key.hex(), opened.file)
    assert "is damaged" in problem.what
    assert "2 conversations need it, such as conversation '" in problem.what
    assert str(problem).startswith(f"record {key.hex()} in {opened.file}: it is damaged: ")
    assert report.unreadable == 2


def test_a_record_of_other_content_is_told(opened):
    key, other = opened.manifest("long").system[0], opened.manifest("long").tools[0]
    opened.write("record", key, opened.cold.read("record", [other])[0])

    assert f"its content has the digest {other[:4].hex()}" in opened.problem().what


def test_a_record_that_is_not_there_is_told(opened):
    key = opened.manifest("short").system[0]
    opened.write("record", key, None)

    problem = opened.problem()

    assert (problem.kind, problem.name) == ("missing record", key.hex())
    assert problem.what.startswith("it is not there; 3 conversations need it")


def test_a_record_that_was_set_aside_is_told_as_that(opened):
    key = opened.manifest("long").blobs[0]
    opened.cold.commit([("quarantine", key, b"x"), ("record", key, None)])

    assert "it was damaged and is set aside" in opened.problem().what
    assert opened.verify().quarantined == 1


def test_a_record_that_nobody_needs_is_no_problem(opened):
    value = opened.cold.read("record", [opened.manifest("long").system[0]])[0]
    content = Lookup(opened.cold).unpack(b"", value)
    changed = attrs.evolve(content, content=b"Somebody else's.")
    key = records.digest_of(changed)
    opened.write("record", key, records._pack((1, 16, b"", [], b"\x00Somebody else's.")))

    report = opened.verify()

    assert report.is_sound
    assert report.orphans == 1


def test_a_size_that_is_not_that_of_the_content_is_told(opened):
    system = opened.manifest("short").system
    opened.change("short", system=(system[0], system[1] + 1, True))

    kinds = {problem.kind for problem in opened.verify().problems}

    assert kinds == {"conversation", "reference"}


# Conversations that are damaged.


def test_a_damaged_manifest_is_told_with_the_name_that_is_still_in_it(opened):
    opened.flip("conversation", conversation_id("short"), at=40)

    problem = opened.problem()

    assert (problem.kind, problem.name, problem.what) == (
        "conversation",
        "'short'",
        "its manifest is damaged",
    )


def test_a_manifest_that_has_lost_its_name_is_told_with_its_id(opened):
    id = conversation_id("short")
    opened.write("conversation", id, b"nothing of it is left")

    assert opened.problem().name == f"of id {id.hex()}"


def test_a_manifest_in_the_place_of_another_is_told(opened):
    value = opened.cold.read("conversation", [conversation_id("bare")])[0]
    opened.write("conversation", conversation_id("elsewhere"), value)

    assert opened.problem().what == "its manifest is in the place of another conversation"


@pytest.mark.parametrize(
    "fields, what",
    [
        ({"root": b"r" * 32}, "not 72727272 as its manifest"),
        ({"tail_key": b"r" * 32}, "its tail is not what was committed"),
        ({"length": 7}, "it has 25 messages and"),
        ({"size": 7}, "and 7 as its manifest"),
        ({"tail_first": 7}, "its tail does not begin where its pages end"),
        ({"tail_root": b"r" * 32}, "its tail does not begin where its pages end"),
        ({"tail_base": 7}, "its tail does not begin where its pages end"),
    ],
)
def test_a_manifest_that_does_not_fit_its_messages_is_told(opened, fields, what):
    opened.change("long", **fields)

    problem = opened.problem()

    assert (problem.kind, problem.name) == ("conversation", "'long'")
    assert what in problem.what


def test_pages_in_another_order_are_told(opened):
    one, two = opened.manifest("long").pages[:2]
    opened.change("long", pages=(attrs.evolve(one, key=two.key), attrs.evolve(two, key=one.key)))

    assert opened.problem().what == "its page 1 does not begin where the messages before it end"


@pytest.mark.parametrize("harm", ["missing", "damaged", "exchanged"])
def test_a_segment_that_is_not_what_was_written_is_told_with_its_conversation(opened, harm):
    key, other = [segment_key(conversation_id("short"), n) for n in (1, 2)]
    if harm == "damaged":
        opened.flip("segment", key, at=2)
    else:
        opened.write("segment", key, opened.cold.read("segment", [other])[0] if harm == "exchanged" else None)

    problem = opened.problem()

    assert (problem.kind, problem.name) == ("conversation", "'short'")
    assert ("its tail is not what" if harm == "exchanged" else f"its segment 1 is {harm}") in problem.what


def test_a_segment_of_no_conversation_is_told(opened):
    opened.write("segment", segment_key(conversation_id("short"), 3), b"x")

    assert opened.problem().kind == "stray segment"


def test_edges_that_nobody_needs_and_edges_that_are_missing_are_told(opened):
    system, body = opened.manifest("short").system[0], opened.manifest("long").blobs[0]
    opened.write("edge", system + conversation_id("bare"), b"")
    opened.write("edge", body + conversation_id("nobody"), b"")
    opened.write("edge", system + conversation_id("short"), None)

    found = {(problem.kind, problem.name, problem.what.split(" ")[1]) for problem in opened.verify().problems}

    assert found == {
        ("stray edge", system.hex(), "'bare'"),
        ("stray edge", body.hex(), "of"),
        ("missing edge", system.hex(), "'short'"),
    }


# Dictionaries.


def test_a_damaged_dictionary_is_told_and_so_is_what_was_made_with_it(opened, trained):
    assert opened.verify().is_sound
    opened.flip("dictionary", trained[0].key)

    found = {problem.kind: problem for problem in opened.verify().problems}

    assert set(found) == {"dictionary", "record"}
    assert found["dictionary"].name == trained[0].key.hex()
    assert f"the dictionary {trained[0].key[:4].hex()}" in found["record"].what


# Large files.


def test_files_are_compared_with_their_names(home, tmp_path):
    (tmp_path / "data").write_bytes(b"data" * 10_000)
    with Store.open(home) as store:
        kept = store.put_file(tmp_path / "data").path
    (kept.parent / "0-1.unfinished").write_bytes(b"da")
    with Opened(home) as opened:
        sound = opened.verify()
        kept.chmod(0o644)
        kept.write_bytes(b"date" * 10_000)
        (kept.parent / "notes.txt").write_text("mine")
        damaged = opened.verify().problems

    assert (sound.is_sound, sound.files, sound.file_bytes, sound.unfinished) == (True, 1, 40_000, 1)
    assert {(problem.kind, problem.name, problem.path) for problem in damaged} == {
        ("file", kept.name, str(kept)),
        ("file", "notes.txt", str(kept.parent / "notes.txt")),
    }
    assert any("it has content" in problem.what for problem in damaged)


# A database that cannot be read.


def unreadable(cold, monkeypatch, table, low, high):
    """Let all reads and scans fail that meet a key from `low` to `high`."""
    read, scan = cold.read, cold.scan

    def refuse(of, keys):
        if of == table and any(low <= key <= high for key in keys):
            raise ColdStoreError(f"{cold.path} is damaged: database disk image is malformed.", cold.path)

    def read_or_refuse(of, keys):
        refuse(of, keys)
        return read(of, keys)

    def scan_or_refuse(of, after=b"", limit=1000, *, values=True):
        rows = scan(of, after, limit, values=values)
        refuse(of, [key for key, _ in rows])
        return rows

    monkeypatch.setattr(cold, "read", read_or_refuse)
    monkeypatch.setattr(cold, "scan", scan_or_refuse)


def test_what_is_behind_a_place_that_cannot_be_read_is_looked_at_all_the_same(opened, monkeypatch):
    keys = [bytes([n]) * 32 for n in range(1, 255)]
    opened.cold.commit([("record", key, b"damaged") for key in keys])
    unreadable(opened.cold, monkeypatch, "record", keys[100], keys[101])

    report = opened.verify()

    found = {problem.name for problem in report.problems}
    assert found == {"record", *(key.hex() for n, key in enumerate(keys) if n not in (100, 101))}
    (table,) = [problem for problem in report.problems if problem.kind == "table"]
    assert "it cannot be read near the key" in str(table)
    assert opened.file in str(table)
    # Seven are the home's own.
    assert report.records == len(keys) - 2 + 7


def test_a_table_that_cannot_be_read_at_all_is_one_problem(opened, monkeypatch):
    unreadable(opened.cold, monkeypatch, "edge", b"", b"\xff" * 48)

    report = opened.verify()

    assert [problem.kind for problem in report.problems] == ["table"]
    assert survey(opened.cold, opened.home.path).damaged == 1


@pytest.mark.slow
def test_wherever_the_file_is_damaged_what_is_called_readable_can_be_read(home):
    names = ("long", "same", "short", "bare")
    file = home / "cold.sqlite3"
    whole = file.read_bytes()
    with Opened(home) as opened:
        exact = {name: read_back(Lookup(opened.cold), conversation_id(name)) for name in names}
    for seed in range(60):
        chance = random.Random(seed)
        damaged = bytearray(whole)
        # The first page is the header of SQLite: without it there is no database.
        begin = chance.randrange(4096, len(damaged) - 200)
        damaged[begin : begin + 200] = chance.randbytes(200)
        file.write_bytes(damaged)

        with Opened(home) as opened:
            report = opened.verify()
            survey(opened.cold, opened.home.path)
            lost = 0
            for name in names:
                try:
                    assert read_back(Lookup(opened.cold), conversation_id(name)) in (exact[name], None)
                    lost += read_back(Lookup(opened.cold), conversation_id(name)) is None
                except (CorruptBlob, MissingBlob, ColdStoreError):
                    lost += 1
        assert lost == 0 or not report.is_sound, seed


def test_more_problems_than_are_told_apart_are_counted(opened, monkeypatch):
    monkeypatch.setattr(verify_module, "MOST_PROBLEMS", 3)
    opened.cold.commit([("record", bytes([n]) * 32, b"damaged") for n in range(10)])

    report = opened.verify()

    assert (len(report.problems), report.more) == (3, 7)


# Beside the owner.


@pytest.mark.slow
def test_beside_an_owner_who_writes_nothing_is_taken_for_damage(home):
    store = Store.open(home, durable=False)
    over = Event()

    def work():
        try:
            for turn in range(60):
                for n in range(4):
                    last = store.roots.get(f"busy{n}") or Conversation(store, f"You are {n}.")
                    grown = last.append(said(f"{turn}, {n}", 5000 if turn % 7 == 0 else 900))
                    store.roots.commit(
                        f"busy{n}", grown if turn % 10 else Conversation(store, f"Now {turn}.")
                    )
                if turn % 5 == 0:
                    store.roots.forget("busy3").result()
                store.sweep()
                store.shelf.settle()
        finally:
            over.set()

    reports = []
    with ThreadPoolExecutor(1) as executor, Home.open(home, read_only=True) as beside:
        worker = executor.submit(work)
        cold = open_cold(beside)
        while not over.is_set() or len(reports) < 3:
            reports.append(verify(cold, beside.files))
        cold.close()
        worker.result()
    store.close()

    assert [str(problem) for report in reports for problem in report.problems] == []


def test_a_problem_is_one_line():
    problem = Problem("conversation", repr("a\nb"), "/home/cold.sqlite3", "its manifest is damaged")

    assert str(problem) == r"conversation 'a\nb' in /home/cold.sqlite3: its manifest is damaged."
