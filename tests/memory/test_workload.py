"""Files of conversations: read and written whole, and clear about what is wrong with them."""

import json

import pytest
import zstandard

from avm.errors import WorkloadError
from avm.memory import read_conversations, write_conversations

ONE = {
    "id": "1",
    "system": "Be kind.",
    "tools": [],
    "messages": [{"role": "user", "content": "Hi"}],
    "meta": {},
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "work.jsonl.zst"


def write(path, text):
    path.write_bytes(zstandard.compress(text if isinstance(text, bytes) else text.encode()))


def test_what_is_written_is_read(path):
    two = {**ONE, "id": "2", "unknown": [1.5, None, True, {"deep": "ß"}]}

    assert write_conversations(path, iter([ONE, two])) == 2
    assert list(read_conversations(str(path))) == [ONE, two]


def test_texts_with_other_line_ends_and_lone_surrogates_survive(path):
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\r\ng\n" + "\ud83d"
    write_conversations(path, [{**ONE, "system": text}])

    assert [found["system"] for found in read_conversations(path)] == [text]


def test_the_order_of_keys_is_kept(path):
    write_conversations(path, [{"messages": [], "b": 1, "a": 2}])

    assert list(next(read_conversations(path))) == ["messages", "b", "a"]


def test_a_file_may_be_of_several_frames_and_miss_the_last_line_end(path):
    line = json.dumps(ONE).encode()
    half = len(line) // 2
    path.write_bytes(zstandard.compress(line + b"\n" + line[:half]) + zstandard.compress(line[half:]))

    assert list(read_conversations(path)) == [ONE, ONE]


def test_empty_lines_are_no_conversations(path):
    write(path, "\n" + json.dumps(ONE) + "\n\n")

    assert list(read_conversations(path)) == [ONE]


def test_a_file_without_conversations_is_empty(path):
    assert write_conversations(path, []) == 0
    assert list(read_conversations(path)) == []


def test_conversations_before_a_broken_line_are_read_and_the_line_is_named(path):
    write(path, json.dumps(ONE) + "\n" + json.dumps(ONE) + '\n{"messages": [}\n')
    found = read_conversations(path)

    assert [next(found), next(found)] == [ONE, ONE]
    with pytest.raises(WorkloadError, match=r"work\.jsonl\.zst, line 3: not JSON"):
        next(found)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[]", "a conversation is an object, got list"),
        ('{"turns": []}', "'messages' must be a list of messages, got NoneType; its keys are turns"),
        ('{"messages": ["hello"]}', r"messages\[0\] must be an object with a 'role', got 'hello'"),
        ('{"messages": [{"content": ""}]}', r"messages\[0\] must be an object with a 'role'"),
        (
            '{"messages": [{"role": "user", "content": null}]}',
            r"messages\[0\] must have a str as 'content', got None",
        ),
        ('{"messages": [], "system": 3}', "'system' must be a str"),
        ('{"messages": [], "tools": {}}', "'tools' a list"),
        (b'{"messages": "\xff"}', "not JSON"),
    ],
)
def test_a_line_that_is_no_conversation_is_refused(path, line, words):
    write(path, line)

    with pytest.raises(WorkloadError, match=f"line 1: .*{words}"):
        list(read_conversations(path))


def test_a_missing_file_is_named_with_what_was_expected(path):
    with pytest.raises(WorkloadError, match="there is no file; expected a zstd frame of JSON lines"):
        list(read_conversations(path))


def test_a_directory_cannot_be_read(tmp_path):
    with pytest.raises(WorkloadError, match="cannot read"):
        list(read_conversations(tmp_path))


def test_a_file_that_is_not_zstd_is_refused(path):
    path.write_text(json.dumps(ONE))

    with pytest.raises(WorkloadError, match="is not zstd: it begins with b'."):
        list(read_conversations(path))


def test_an_empty_file_is_not_zstd(path):
    path.write_bytes(b"")

    with pytest.raises(WorkloadError, match="it is empty"):
        list(read_conversations(path))


def test_a_file_that_is_cut_off_is_named_with_the_line_it_ends_in(path):
    lines = [{**ONE, "id": str(n), "system": f"{n * 7919}" * 50} for n in range(500)]
    write_conversations(path, lines)
    path.write_bytes(path.read_bytes()[:-10])

    with pytest.raises(WorkloadError, match=r"line \d+: the file is cut off; fetch or write it again"):
        list(read_conversations(path))


def test_a_damaged_file_is_refused(path):
    write_conversations(path, [ONE] * 50)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    data[len(data) // 2 + 1] ^= 0xFF
    path.write_bytes(data)

    with pytest.raises(WorkloadError, match="line"):
        list(read_conversations(path))


def test_a_file_appears_whole_or_not_at_all(path):
    write_conversations(path, [ONE])

    def failing():
        yield {**ONE, "id": "new"}
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        write_conversations(path, failing())
    assert list(read_conversations(path)) == [ONE]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(WorkloadError, match="cannot write .*Give a path in a writable directory"):
        write_conversations(tmp_path / "nowhere" / "x.zst", [ONE])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tau_airline", "swe_agent_java", "mint", "intercode"])
def test_recorded_files_are_written_as_they_were_read(data_dir, tmp_path, name):
    source, copy = data_dir / f"{name}.jsonl.zst", tmp_path / "copy.zst"

    write_conversations(copy, read_conversations(source))

    assert _content(copy) == _content(source)


def _content(path):
    with path.open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file).read()
