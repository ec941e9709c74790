"""avm store: looking into a home, checking it, clearing it out, and conversations out of it and into it again."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from avm.cli.main import main
from avm.cli.transfer import record_of
from avm.memory import Conversation, Store, read_conversations
from avm.memory.cold.home import Home
from avm.memory.cold.opening import open_cold
from avm.memory.cold.readback import ReadBack
from avm.memory.workload import MAGIC, split_lines
from tests.vm.programs import ROOT

Captured = pytest.CaptureFixture[str]

LINES = (
    '{"id": "one", "source": "here", "model": "m", "system": "Be kind.", "tools": [], "messages": '
    '[{"role": "user", "content": "Grüße\u2028!"}], "meta": {"b": 1, "a": 0.5}}\n'
    '{"messages": [{"content": "", "role": "user"}, {"role": "assistant", "content": "\\ud83d", "n": [null]}]}\n'
    '{"tools": [{"name": "t"}], "extra": {"z": [1, {"y": 2}]}, "id": "three", "messages": []}\n'
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "three.jsonl"
    path.write_text(LINES, encoding="utf-8")
    return path


@pytest.fixture
def home(tmp_path: Path, file: Path, capsys: Captured) -> Path:
    """A home that the three lines were imported into."""
    assert main(["store", "import", str(tmp_path / "home"), str(file)]) == 0
    capsys.readouterr()
    return tmp_path / "home"


def avm(*arguments: str | Path) -> int:
    return main(["store", *map(str, arguments)])


def refused(capsys: Captured, *arguments: str | Path, status: int = 2) -> str:
    """Carry out a command that is refused, in one line; return what it says."""
    assert avm(*arguments) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("avm store")
    assert said.err.count("\n") == 1, said.err
    return said.err


def names(home: Path) -> list[str]:
    with Store.open(home) as store:
        return sorted(store.roots)


def change(home: Path, *changes: tuple[str, bytes, bytes | None]) -> None:
    with Home.open(home) as opened:
        cold = open_cold(opened)
        cold.commit(changes)
        cold.close()


def keys(home: Path, table: str) -> list[bytes]:
    with Home.open(home, read_only=True) as opened:
        cold = open_cold(opened)
        found = [key for key, _ in cold.scan(table)]
        cold.close()
    return found


# Out of it and into it.


def test_what_was_imported_is_exported_byte_for_byte(home: Path, capsys: Captured) -> None:
    assert avm("export", home) == 0

    said = capsys.readouterr()
    assert said.out == LINES
    assert said.err == "avm store export: 3 conversations written to standard output.\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tau_airline", "swe_agent_java", "mint", "intercode"])
def test_a_file_of_recorded_conversations_comes_back_byte_for_byte(
    name: str, data_dir: Path, tmp_path: Path
) -> None:
    source = data_dir / f"{name}.jsonl.zst"

    assert avm("import", tmp_path / "home", source) == 0
    assert avm("export", tmp_path / "home", tmp_path / "out.jsonl") == 0
    assert avm("verify", tmp_path / "home") == 0

    with source.open("rb") as packed:
        assert (tmp_path / "out.jsonl").read_bytes() == zstandard.ZstdDecompressor().stream_reader(
            packed
        ).read()


def test_a_name_in_zst_is_compressed_and_read_again(home: Path, tmp_path: Path, capsys: Captured) -> None:
    assert avm("export", home, tmp_path / "out.jsonl.zst") == 0

    assert (tmp_path / "out.jsonl.zst").read_bytes().startswith(MAGIC)
    assert len(list(read_conversations(tmp_path / "out.jsonl.zst"))) == 3
    assert avm("import", tmp_path / "other", tmp_path / "out.jsonl.zst") == 0
    capsys.readouterr()
    assert avm("export", tmp_path / "other") == 0
    assert capsys.readouterr().out == LINES


def test_conversations_are_named_by_prefix_and_id_or_line(home: Path, file: Path) -> None:
    assert avm("import", home, file, "--prefix", "again/") == 0

    assert names(home) == ["2", "again/2", "again/one", "again/three", "one", "three"]


def test_only_conversations_of_such_names_are_exported(home: Path, capsys: Captured) -> None:
    assert avm("export", home, "--name", "t*", "--name", "[0-9]") == 0

    assert capsys.readouterr().out == LINES[LINES.index("\n") + 1 :]


def test_a_pattern_that_no_name_is_like_is_told(home: Path, capsys: Captured) -> None:
    assert "no conversation has a name like 'critic*'" in refused(
        capsys, "export", home, "--name", "critic*", status=1
    )


def test_a_conversation_of_an_agents_is_exported_with_its_notes(tmp_path: Path, capsys: Captured) -> None:
    with Store.open(tmp_path / "home") as store:
        meta = {"model": "m", "mood": "good"}
        conversation = Conversation(store, "Be kind.", meta=meta).append({"role": "user", "content": "Hi."})
        store.roots.commit("office/clerk", conversation)

    assert avm("export", tmp_path / "home") == 0

    assert json.loads(capsys.readouterr().out) == {
        "id": "office/clerk",
        "model": "m",
        "system": "Be kind.",
        "tools": [],
        "messages": [{"role": "user", "content": "Hi."}],
        "meta": {"mood": "good"},
    }


@pytest.mark.parametrize(
    "meta, line",
    [
        ({}, {"id": "name", "meta": {}}),
        ({"id": "own", "meta": {"a": 1}}, {"id": "own", "meta": {"a": 1}}),
        (
            {"id": 7, "model": None, "meta": 1, "b": 2},
            {"id": "name", "meta": {"model": None, "meta": 1, "b": 2}},
        ),
        ({"messages": None}, {"system": "s"}),
    ],
)
def test_the_fields_of_a_line_come_from_the_notes(meta: dict[str, Any], line: dict[str, Any]) -> None:
    record = record_of(ReadBack("name", "s", [], [], meta))

    assert record == {**({"system": "s", "tools": []} if "id" in line else {}), **line, "messages": []}


def test_what_is_there_already_is_counted_and_left(home: Path, file: Path, capsys: Captured) -> None:
    assert avm("import", home, file) == 0

    assert "0 conversations imported, 3 there already, from " in capsys.readouterr().err


def test_another_content_of_the_same_name_is_refused_or_replaced(
    home: Path, file: Path, capsys: Captured
) -> None:
    file.write_text(LINES.replace("kind", "short"), encoding="utf-8")

    said = refused(capsys, "import", home, file, status=1)

    assert f"{file}, line 1: there is a conversation 'one' with other content already. Give --replace" in said
    assert avm("import", home, file, "--replace") == 0
    assert "0 conversations imported, 1 replaced, 2 there already" in capsys.readouterr().err
    assert avm("export", home, "--name", "one") == 0
    assert "Be short." in capsys.readouterr().out
    assert avm("verify", home) == 0


def test_lines_that_are_spelled_otherwise_are_told(home: Path, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "tight.jsonl").write_text('{"id":"tight","messages":[]}\n\n{"messages": []}')

    assert avm("import", home, tmp_path / "tight.jsonl", "--prefix", "p") == 0

    assert "1 of the lines are spelled otherwise than an export spells them" in capsys.readouterr().err
    assert names(home) == ["2", "one", "p3", "ptight", "three"]


def test_a_damaged_conversation_is_left_out_and_told(home: Path, capsys: Captured) -> None:
    (segment, *_) = keys(home, "segment")
    change(home, ("segment", segment, b"damaged"))

    assert avm("export", home) == 1

    said = capsys.readouterr()
    assert len(said.out.splitlines()) >= 2
    assert "avm store export: conversation '" in said.err
    assert "is damaged: its checksum is wrong. It is left out.\n" in said.err
    assert said.err.endswith("2 conversations written to standard output, 1 left out.\n")


@pytest.mark.parametrize(
    "content, what",
    [
        (b"", "holds no conversation"),
        (b"{\n", "line 1: not JSON"),
        (
            b'{"messages": []}\n[1]\n',
            "line 2: a conversation is an object, got list. Before it, 1 conversation imp",
        ),
        (b'{"id": "a"}', "line 1: 'messages' must be a list, got NoneType"),
        (b'{"messages": [1]}', "line 1: message is a int"),
        (b'{"messages": [], "system": 1}', "line 1: 'system' must be a str, got int"),
        (b'{"messages": [{"role": "user", "n": NaN}]}', "which JSON cannot hold"),
        (b"\xff\xfe", "line 1: not JSON"),
        (MAGIC + b"rubbish", "line 1: the file is damaged"),
        (zstandard.compress(LINES.encode() * 100)[:-20], "the file is cut off"),
    ],
)
def test_a_file_that_is_no_file_of_conversations_is_refused(
    content: bytes, what: str, tmp_path: Path, capsys: Captured
) -> None:
    (tmp_path / "file").write_bytes(content)

    assert what in refused(capsys, "import", tmp_path / "home", tmp_path / "file")


def test_a_file_that_is_missing_makes_no_home(tmp_path: Path, capsys: Captured) -> None:
    said = refused(capsys, "import", tmp_path / "home", tmp_path / "nothing.zst")

    assert said == f"avm store import: {tmp_path / 'nothing.zst'} cannot be read: there is no such file.\n"
    assert not (tmp_path / "home").exists()


def test_an_export_that_cannot_be_written_is_refused(home: Path, tmp_path: Path, capsys: Captured) -> None:
    said = refused(capsys, "export", home, tmp_path / "nowhere" / "out.jsonl")

    assert f"{tmp_path / 'nowhere' / 'out.jsonl'}: cannot write (No such file or directory)" in said


def test_a_line_that_is_larger_than_its_share_of_memory_is_refused(tmp_path: Path, capsys: Captured) -> None:
    huge = zstandard.compress(b'{"messages": ["' + b"x" * (17 << 20) + b'"]}')
    (tmp_path / "file.zst").write_bytes(huge)

    said = refused(capsys, "import", tmp_path / "home", tmp_path / "file.zst", "--memory", "64MB", status=1)

    assert "is larger than a quarter of --memory" in said


def test_lines_end_in_newlines_and_nothing_else() -> None:
    chunks = iter([b"a", b"b\rc\n\nd\xe2\x80", b"\xa8e\n", b"f"])

    assert list(split_lines(chunks)) == [b"ab\rc", b"", b"d\xe2\x80\xa8e", b"f"]


# Looking and checking.


def test_stat_says_what_is_in_a_home(home: Path, capsys: Captured) -> None:
    assert avm("stat", home) == 0

    said = capsys.readouterr()
    assert said.out.startswith(f"{home}: sqlite, format 1, ")
    assert "conversations  3 of 3 messages\n" in said.out
    assert said.err == ""


def test_stat_in_json_names_dedup_and_compression_apart(home: Path, capsys: Captured) -> None:
    assert avm("stat", home, "--json") == 0

    found = json.loads(capsys.readouterr().out)
    assert found["home"] == str(home)
    assert (found["conversations"], found["messages"], found["damaged"]) == (3, 3, 0)
    assert found["kinds"]["segments"]["count"] == 2
    assert {"dedup", "compression", "logical_bytes", "unique_bytes", "stored_bytes"} <= set(found)


def test_a_sound_home_is_called_sound(home: Path, capsys: Captured) -> None:
    assert avm("verify", home) == 0

    said = capsys.readouterr().out
    assert said.startswith(f"{home}: 3 conversations of 3 messages, ")
    assert said.endswith("Nothing is wrong.\n")


def test_each_problem_is_a_line_and_the_status_says_so(home: Path, capsys: Captured) -> None:
    change(home, ("record", b"k" * 32, b"damaged"), ("edge", b"e" * 48, b""))

    assert avm("verify", home) == 1

    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"record {(b'k' * 32).hex()} in {home / 'cold.sqlite3'}: it is damaged: ")
    assert said[1].startswith(f"stray edge {(b'e' * 32).hex()} in ")
    assert said[-1] == "2 problems; 0 of 3 conversations cannot be read back."


def test_problems_in_json_have_their_parts(home: Path, capsys: Captured) -> None:
    change(home, ("record", b"k" * 32, b"damaged"))

    assert avm("verify", home, "--json") == 1

    found = json.loads(capsys.readouterr().out)
    assert (found["sound"], found["conversations"], len(found["problems"])) == (False, 3, 1)
    assert found["problems"][0]["name"] == (b"k" * 32).hex()


def test_a_repair_says_what_was_found_and_what_it_did(home: Path, capsys: Captured) -> None:
    change(home, ("record", b"k" * 32, b"damaged"), ("edge", b"e" * 48, b""))

    assert avm("verify", home, "--repair") == 0

    said = capsys.readouterr().out
    assert "repaired: 1 damaged records put in quarantine, 1 stray edges deleted; all is well now.\n" in said
    assert keys(home, "quarantine") == [b"k" * 32]
    assert avm("verify", home) == 0


def test_what_cannot_be_repaired_stays_wrong(home: Path, capsys: Captured) -> None:
    change(home, ("segment", keys(home, "segment")[0], None))

    assert avm("verify", home, "--repair", "--json") == 1

    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == found["found"]
    assert set(found["repair"].values()) == {0}


def test_an_import_of_what_was_exported_mends_what_is_damaged(
    home: Path, file: Path, capsys: Captured
) -> None:
    change(
        home,
        ("segment", keys(home, "segment")[0], b"damaged"),
        ("record", keys(home, "record")[0], b"damaged"),
    )
    assert avm("verify", home) == 1

    assert avm("import", home, file, "--replace") == 0

    assert "0 conversations imported, 3 there already" in capsys.readouterr().err
    assert avm("verify", home) == 0


# Clearing out.


@pytest.fixture
def littered(home: Path, tmp_path: Path) -> Path:
    """A home with content that nobody needs: half a megabyte of it, a damaged record, a dictionary, large files."""
    with Store.open(home) as store:
        for n in range(20):
            content = random.Random(n).randbytes(20_000).hex()
            store.roots.commit(f"old{n}", Conversation(store).append({"role": "user", "content": content}))
        (tmp_path / "kept.bin").write_bytes(b"kept")
        (tmp_path / "gone.bin").write_bytes(b"gone")
        kept, _ = store.put_file(tmp_path / "kept.bin"), store.put_file(tmp_path / "gone.bin")
        text = f"Look into {kept.digest.hex()}."
        store.roots.commit("looks", Conversation(store).append({"role": "user", "content": text}))
        for n in range(20):
            store.roots.forget(f"old{n}")
    (home / "files" / "0-1.unfinished").write_bytes(b"go")
    change(home, ("quarantine", b"q" * 32, b"damaged"), ("dictionary", b"d" * 32, b"of nothing"))
    return home


def test_gc_deletes_what_nobody_needs_and_gives_the_space_back(littered: Path, capsys: Captured) -> None:
    before = (littered / "cold.sqlite3").stat().st_size

    assert avm("gc", littered) == 0

    said = capsys.readouterr().out
    assert "records       20 of 22 deleted, which no conversation refers to\n" in said
    assert "dictionaries  1 deleted\n" in said
    assert "bytes)\n" in said
    assert (littered / "cold.sqlite3").stat().st_size < before / 2
    assert (len(keys(littered, "quarantine")), len(list((littered / "files").iterdir()))) == (1, 3)
    assert avm("verify", littered) == 0


def test_gc_drops_quarantine_and_files_when_told_to(littered: Path, capsys: Captured) -> None:
    assert avm("gc", littered, "--drop-quarantine", "--drop-files") == 0

    said = capsys.readouterr().out
    assert "quarantine    1 deleted\n" in said
    assert "large files   2 deleted, 6 bytes\n" in said
    assert keys(littered, "quarantine") == []
    assert [path.read_bytes() for path in (littered / "files").iterdir()] == [b"kept"]


def test_no_file_is_dropped_while_it_is_not_known_who_names_it(littered: Path, capsys: Captured) -> None:
    change(littered, ("segment", keys(littered, "segment")[0], b"damaged"))

    assert avm("gc", littered, "--drop-files") == 1

    assert "no file is deleted, since not all that may name them can be read" in capsys.readouterr().err
    assert len(list((littered / "files").iterdir())) == 3


# Beside an owner, and what is no home.

OWNER = """
import sys
from avm.memory import Conversation, Store
with Store.open(sys.argv[1]) as store:
    store.roots.commit("busy", Conversation(store).append({"role": "user", "content": "x"})).result()
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def owner(home: Path) -> Iterator[int]:
    """Another process that has the home open, and has committed a conversation `busy`."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, home],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child.pid
        child.communicate()


@pytest.mark.slow
def test_beside_an_owner_one_may_look_but_not_write(
    home: Path, file: Path, owner: int, capsys: Captured
) -> None:
    assert avm("stat", home) == 0
    assert "conversations  4 of 4 messages" in capsys.readouterr().out
    assert avm("verify", home) == 0
    assert avm("export", home, "--name", "busy") == 0
    assert '"id": "busy"' in capsys.readouterr().out

    for command in (["gc", home], ["verify", home, "--repair"], ["import", home, file]):
        assert avm(*command) == 2
        said = capsys.readouterr().err
        assert f"home {home} is in use by process {owner} on " in said
        assert said.count("\n") == 1


@pytest.mark.parametrize("command", ["stat", "verify", "gc", "export"])
def test_what_is_no_home_is_refused_and_left_as_it_is(command: str, tmp_path: Path, capsys: Captured) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("mine")

    assert "no such directory" in refused(capsys, command, tmp_path / "nothing")
    assert "it is a file" in refused(capsys, command, tmp_path / "full" / "thesis.tex")
    assert "is no home: it has no avm.json" in refused(capsys, command, tmp_path / "full")
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_nothing_is_imported_among_files_of_others(tmp_path: Path, file: Path, capsys: Captured) -> None:
    assert "is no home" in refused(capsys, "import", tmp_path, file)


@pytest.mark.parametrize("command", ["stat", "verify", "gc", "export"])
def test_a_home_of_a_newer_avm_is_refused(command: str, home: Path, capsys: Captured) -> None:
    (home / "avm.json").write_text('{"format": 9, "cold": "sqlite", "made_by": "avm 9.0"}')

    assert "has format 9, written by avm 9.0" in refused(capsys, command, home)


@pytest.mark.parametrize("command", ["stat", "verify", "gc", "export"])
def test_a_database_that_is_none_is_told(command: str, home: Path, capsys: Captured) -> None:
    (home / "cold.sqlite3").write_bytes(b"all gone" * 1000)

    assert "is not an SQLite database" in refused(capsys, command, home, status=1)


@pytest.mark.parametrize(
    "arguments, what",
    [
        ([], "COMMAND"),
        (["look", "home"], "'look'"),
        (["stat"], "HOME"),
        (["import", "home"], "FILE"),
        (["import", "home", "file", "--memory", "1KB"], "--memory"),
        (["stat", "home", "--fast"], "--fast"),
    ],
)
def test_a_command_line_that_cannot_be_right_is_refused(
    arguments: list[str], what: str, capsys: Captured
) -> None:
    said = refused(capsys, *arguments)

    assert what in said
    assert "--help` lists what there is." in said


@pytest.mark.parametrize("command", ["", "stat", "verify", "gc", "export", "import"])
def test_each_command_has_its_help(command: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit) as caught:
        avm(*command.split(), "--help")

    assert caught.value.code == 0
    assert f"usage: avm store {command}".rstrip() in capsys.readouterr().out
