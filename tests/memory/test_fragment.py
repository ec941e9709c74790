"""Fragments: messages as compact JSON, with large texts taken out; what comes back is what was put in."""

import json
import math

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from avm.memory import Store, fragment

LARGE = "large " * 1000

texts = st.text(st.characters(codec=None, categories=None), max_size=20) | st.sampled_from(
    [
        "\x01",
        "\x01\x01",
        ",\t",
        "\\u0001",
        "body 0",
        "\ud800",
        LARGE,
        LARGE + "\ud800",
        "\u2028" * 2000,
        "é" * 2048,
    ]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
messages = st.dictionaries(texts, values, max_size=5)


@pytest.mark.slow
@given(messages)
@example({"content": LARGE, "x": "\x01"})
@example({"content": LARGE, "x": "\ud800", "y": "body 0", "z": [LARGE, "body 1"]})
def test_a_message_comes_back_as_it_is_in_the_order_of_its_keys(message):
    made, blobs = fragment.encode(message, Store().put)

    found = fragment.decode(made, blobs)

    assert found == message
    assert json.dumps(found) == json.dumps(message)


@pytest.mark.slow
@given(st.lists(messages, max_size=5))
def test_a_run_is_a_json_array_when_its_bodies_are_put_back(several):
    store = Store()
    parts = [fragment.encode(message, store.put) for message in several]
    run = fragment.JOINT.join(made for made, _ in parts)
    blobs = tuple(blob for _, bodies in parts for blob in bodies)

    assert json.loads(b"[" + fragment.splice(run, blobs) + b"]") == several
    assert fragment.messages(run, blobs) == several
    assert [(made, tuple(bodies)) for made, bodies in fragment.separate(run, blobs)] == parts


def test_a_fragment_is_compact_json():
    made, blobs = fragment.encode({"role": "user", "content": "a b", "n": [1, 2.5, None]}, Store().put)

    assert made == b'{"role":"user","content":"a b","n":[1,2.5,null]}'
    assert blobs == ()


@pytest.mark.parametrize(
    ("text", "is_body"), [("x" * 4095, False), ("x" * 4096, True), ("é" * 2047, False), ("é" * 2048, True)]
)
def test_a_text_of_4_kib_is_a_body_wherever_it_is(text, is_body):
    store = Store()
    for message in ({"content": text}, {"content": [{"type": "image", "source": {"data": text}}]}):
        made, blobs = fragment.encode(message, store.put)

        assert [blob.text for blob in blobs] == [text] * is_body
        assert (len(made) < 100) == is_body
        assert fragment.decode(made, blobs) == message


def test_bodies_come_back_as_the_one_object_all_share():
    store = Store()
    made, blobs = fragment.encode({"content": LARGE}, store.put)

    assert fragment.decode(made, blobs)["content"] is store.share(LARGE)[1]


def test_a_body_that_was_first_put_as_bytes_comes_back_as_text():
    store = Store()
    file = store.put(LARGE.encode())
    made, blobs = fragment.encode({"content": LARGE}, store.put)

    assert blobs == (file,)
    assert fragment.decode(made, blobs) == {"content": LARGE}


def test_the_message_itself_is_left_as_it_was():
    message = {"content": LARGE, "calls": [{"arguments": LARGE}]}

    fragment.encode(message, Store().put)

    assert message == {"content": LARGE, "calls": [{"arguments": LARGE}]}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"a": {1, 2}}, r"message\['a'\] is a set; messages are JSON"),
        ({"a": [0, (1, 2)]}, r"message\['a'\]\[1\] is a tuple"),
        ({"a": {"b": b"x"}}, r"message\['a'\]\['b'\] is a bytes"),
        ({"a": {1: 2}}, r"message\['a'\] has the key 1; keys of a message are str"),
        ({"a": math.nan}, r"message\['a'\] is nan, which JSON cannot hold"),
        ({"a": -math.inf}, r"message\['a'\] is -inf"),
        ([1], "message is a list; a message is a dict"),
        ("text", "message is a str; a message is a dict"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_place(wrong, words):
    with pytest.raises((TypeError, ValueError), match=words):
        fragment.encode(wrong, Store().put)


def test_a_message_without_a_bottom_is_refused():
    endless = {}
    endless["a"] = [endless]

    with pytest.raises(ValueError, match="nests deeper than 64 values; flatten it"):
        fragment.encode(endless, Store().put)


def test_equal_messages_have_equal_fragments_here_and_in_replies():
    """What a provider made of a message with the same encoder is the same fragment."""
    message = {
        "role": "assistant",
        "content": "Grüße \u2028 \x00 </script>",
        "tool_calls": [{"id": "1", "x": 1e300}],
    }

    assert fragment.encode(message, Store().put)[0] == msgspec.json.encode(message)
