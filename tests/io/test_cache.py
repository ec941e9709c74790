"""Replies that are kept: given as they were, for as long as they may be, within so many bytes, on disk with a home."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avm.io.cache import LOOKED_AT, OVERHEAD, PREFIX, CacheStatistics, ReplyCache
from avm.io.request import Completion, Usage, encode_fragment
from avm.memory import Digest, Store
from tests.memory.cold.faked import FakeCold, open_on, settle

ONE, OTHER, THIRD = Digest.of("one"), Digest.of("other"), Digest.of("third")


class Wall:
    """A clock on the wall, which can be set."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def reply(text: str = "Good day.", stop_reason: str = "end_turn") -> Completion:
    fragment = encode_fragment({"role": "assistant", "content": text})
    return Completion(fragment, stop_reason, "m", Usage(10, 20, 30, 40), "scripted", "req_1")


def at_home(store: Store, wall: Wall, most: int = 1 << 20) -> ReplyCache:
    return ReplyCache(store, store.roots, most, wall=wall)


def names(store: Store) -> list[str]:
    return sorted(store.roots)


def counts(cache: ReplyCache, *fields: str) -> list[int]:
    found = cache.statistics()
    return [getattr(found, field) for field in fields]


# What is given.


def test_a_kept_reply_is_given_as_it_was_and_says_where_it_came_from() -> None:
    cache = ReplyCache()

    assert cache.put(ONE, reply(), 60.0)

    assert cache.get(ONE) == Completion(
        reply().fragment, "end_turn", "m", Usage(10, 20, 30, 40), "scripted", "req_1", "cache", None, 0
    )
    assert cache.get(OTHER) is None
    assert counts(cache, "replies", "hits", "misses") == [1, 1, 1]


def test_a_reply_that_was_not_counted_stays_so() -> None:
    cache = ReplyCache()
    cache.put(ONE, Completion(reply().fragment), 60.0)

    found = cache.get(ONE)

    assert found is not None
    assert found.usage is None


@pytest.mark.parametrize(
    "fragment",
    [
        b'{"role":"assistant","content":"compact"}',
        b'{"role": "assistant", "content": "with spaces"}',
        b'{"role":"assistant","content":"\\u00e9 \\/ escaped by whoever wrote it"}',
        b'{"role":"assistant","content":"half a pair: \\ud800"}',
        b'{"role":"assistant","content":"twice","content":"the same key"}',
        b'{"role":"assistant","content":"","score":1.50,"big":12345678901234567890123}',
        encode_fragment({"role": "assistant", "content": "a body of its own " * 1000}),
        b'{"role": "assistant", "content": "' + b"a body with a space before it " * 1000 + b'"}',
        encode_fragment(
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c1", "name": "look", "arguments": '{"n": 1}'}],
            }
        ),
    ],
)
def test_the_message_comes_back_byte_by_byte(fragment: bytes) -> None:
    cache = ReplyCache()

    assert cache.put(ONE, Completion(fragment, "tool_use"), 60.0)

    found = cache.get(ONE)
    assert found is not None
    assert found.fragment == fragment


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@given(
    content=json_values,
    spaced=st.booleans(),
    escaped=st.booleans(),
)
def test_any_message_comes_back_byte_by_byte(content: object, spaced: bool, escaped: bool) -> None:
    message = {"role": "assistant", "content": content}
    text = json.dumps(message, ensure_ascii=escaped, separators=None if spaced else (",", ":"))
    cache = ReplyCache()

    assert cache.put(ONE, Completion(text.encode()), 60.0)

    found = cache.get(ONE)
    assert found is not None
    assert found.fragment == text.encode()


@pytest.mark.parametrize("stop_reason", ["max_tokens", "refusal", "pause_turn", ""])
def test_a_reply_that_is_not_complete_is_not_kept(stop_reason: str) -> None:
    cache = ReplyCache()

    assert not cache.put(ONE, reply(stop_reason=stop_reason), 60.0)

    assert cache.get(ONE) is None


def test_a_cache_for_all_replies_keeps_those_that_were_cut_off_too() -> None:
    cache = ReplyCache(reasons=None)

    assert cache.put(ONE, reply(stop_reason="max_tokens"), 60.0)


def test_a_message_that_is_no_message_is_not_kept() -> None:
    cache = ReplyCache()

    assert not cache.put(ONE, Completion(b"not JSON"), 60.0)
    assert not cache.put(ONE, Completion(b"[1]"), 60.0)


def test_a_reply_takes_the_place_of_the_one_before() -> None:
    cache = ReplyCache()
    cache.put(ONE, reply("Good day."), 60.0)
    cache.put(ONE, reply("Good evening."), 60.0)

    found = cache.get(ONE)

    assert found is not None
    assert found.text == "Good evening."
    assert len(cache) == 1


def test_a_dropped_reply_is_gone() -> None:
    cache = ReplyCache()
    cache.put(ONE, reply(), 60.0)

    cache.drop(ONE)
    cache.drop(ONE)

    assert cache.get(ONE) is None
    assert counts(cache, "replies", "bytes") == [0, 0]


# For how long.


def test_a_reply_is_given_until_its_time_is_over() -> None:
    wall = Wall()
    cache = ReplyCache(wall=wall)
    cache.put(ONE, reply(), 60.0)

    wall.now += 59.0
    assert cache.get(ONE) is not None
    wall.now += 1.0
    assert cache.get(ONE) is None

    assert counts(cache, "replies", "bytes", "expired") == [0, 0, 1]


def test_who_wants_a_fresh_reply_does_not_get_an_old_one_which_others_still_get() -> None:
    wall = Wall()
    cache = ReplyCache(wall=wall)
    cache.put(ONE, reply(), 60.0)

    wall.now += 30.0

    assert cache.get(ONE, 30.0) is None
    assert cache.get(ONE, 31.0) is not None


def test_a_clock_that_is_set_back_does_not_make_a_reply_live_longer_than_its_time_from_then() -> None:
    wall = Wall()
    cache = ReplyCache(wall=wall)
    cache.put(ONE, reply(), 60.0)

    wall.now -= 500_000.0
    assert cache.get(ONE) is not None
    wall.now += 59.0
    assert cache.get(ONE) is not None
    wall.now += 1.0

    assert cache.get(ONE) is None


def test_a_reply_may_be_kept_for_ever() -> None:
    wall = Wall()
    cache = ReplyCache(wall=wall)

    assert cache.put(ONE, reply(), float("inf"))

    wall.now += 1e8
    assert cache.get(ONE) is not None


# How much.


def test_what_was_used_longest_ago_goes_first() -> None:
    size = len(reply().fragment) + OVERHEAD
    cache = ReplyCache(most=2 * size)
    cache.put(ONE, reply(), 60.0)
    cache.put(OTHER, reply(), 60.0)
    cache.get(ONE)

    cache.put(THIRD, reply(), 60.0)

    assert cache.get(OTHER) is None
    assert cache.get(ONE) is not None
    assert cache.get(THIRD) is not None
    assert counts(cache, "bytes", "evicted") == [2 * size, 1]


def test_a_reply_larger_than_the_cache_is_not_kept_and_drives_nothing_out() -> None:
    cache = ReplyCache(most=4096)
    cache.put(ONE, reply(), 60.0)

    assert not cache.put(OTHER, reply("x" * 5000), 60.0)

    assert cache.get(ONE) is not None


def test_a_full_store_keeps_no_reply_and_the_call_goes_well_all_the_same() -> None:
    cache = ReplyCache(Store(limit=10_000))

    assert not cache.put(ONE, reply("x" * 50_000), 60.0)

    assert counts(cache, "replies", "lost") == [0, 1]


digests = st.sampled_from([Digest.of(name) for name in "abcdef"])


@pytest.mark.slow
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["put", "get", "drop"]), digests, st.integers(1, 3000)), max_size=40
    )
)
def test_the_bytes_never_exceed_what_is_allowed_and_are_those_of_the_replies(
    steps: list[tuple[str, Digest, int]],
) -> None:
    cache = ReplyCache(most=8000)
    kept: dict[Digest, int] = {}

    for what, digest, size in steps:
        if what == "put":
            if cache.put(digest, reply("x" * size), 60.0):
                kept.pop(digest, None)
                kept[digest] = len(reply("x" * size).fragment) + OVERHEAD
        elif what == "drop":
            cache.drop(digest)
            kept.pop(digest, None)
        else:
            assert (cache.get(digest) is not None) == (digest in kept)
            if digest in kept:
                kept[digest] = kept.pop(digest)
        while sum(kept.values()) > 8000:
            del kept[next(iter(kept))]
        assert counts(cache, "replies", "bytes") == [len(kept), sum(kept.values())]


# In a home.


def test_a_reply_is_found_by_the_next_process_and_not_after_its_time(tmp_path: Path) -> None:
    wall = Wall()
    with Store.open(tmp_path / "home", durable=False) as store:
        at_home(store, wall).put(ONE, reply("x" * 5000), 60.0)
        at_home(store, wall).put(OTHER, reply(), 20.0)

    wall.now += 30.0
    with Store.open(tmp_path / "home", durable=False) as store:
        cache = at_home(store, wall)
        found = cache.get(ONE)

        assert found is not None
        assert (found.fragment, found.usage) == (reply("x" * 5000).fragment, Usage(10, 20, 30, 40))
        assert cache.get(OTHER) is None
        assert names(store) == [f"{PREFIX}{ONE.hex()}"]


def test_without_a_home_nothing_is_committed() -> None:
    store = Store()

    ReplyCache(store, store.roots).put(ONE, reply(), 60.0)

    assert names(store) == []


def test_what_is_evicted_dropped_or_expired_leaves_the_home_too(tmp_path: Path) -> None:
    wall = Wall()
    size = len(reply().fragment) + OVERHEAD
    with Store.open(tmp_path / "home", durable=False) as store:
        cache = at_home(store, wall, most=2 * size)
        for digest in (ONE, OTHER, THIRD):
            cache.put(digest, reply(), 60.0)
        assert names(store) == sorted(f"{PREFIX}{digest.hex()}" for digest in (OTHER, THIRD))

        cache.drop(OTHER)
        wall.now += 60.0
        cache.get(THIRD)

        assert names(store) == []


def test_what_a_former_process_left_and_nobody_asks_for_is_forgotten_in_time(tmp_path: Path) -> None:
    wall = Wall()
    with Store.open(tmp_path / "home", durable=False) as store:
        cache = at_home(store, wall)
        for n in range(40):
            cache.put(Digest.of(f"old {n}"), reply(), 60.0)

    wall.now += 60.0
    with Store.open(tmp_path / "home", durable=False) as store:
        cache = at_home(store, wall)
        for n in range(3):
            cache.put(Digest.of(f"new {n}"), reply(), 60.0)

        assert names(store) == sorted(f"{PREFIX}{Digest.of(f'new {n}').hex()}" for n in range(3))
        assert counts(cache, "replies", "expired") == [3, 40]


def test_what_a_former_process_left_counts_and_goes_before_what_is_new(tmp_path: Path) -> None:
    wall = Wall()
    size = len(reply().fragment) + OVERHEAD
    with Store.open(tmp_path / "home", durable=False) as store:
        former = at_home(store, wall)
        for n in range(LOOKED_AT + 8):
            former.put(Digest.of(f"old {n}"), reply(), 60.0)

    with Store.open(tmp_path / "home", durable=False) as store:
        cache = at_home(store, wall, most=2 * size)
        cache.put(OTHER, reply(), 60.0)
        assert counts(cache, "replies", "bytes", "evicted") == [2, 2 * size, LOOKED_AT - 1]
        cache.put(THIRD, reply(), 60.0)

        assert names(store) == sorted(f"{PREFIX}{digest.hex()}" for digest in (OTHER, THIRD))


def test_conversations_of_others_in_the_home_are_left_alone(tmp_path: Path) -> None:
    wall = Wall()
    with Store.open(tmp_path / "home", durable=False) as store:
        cache = at_home(store, wall)
        cache.put(ONE, reply(), 60.0)
        conversation = store.roots.get(f"{PREFIX}{ONE.hex()}")
        assert conversation is not None
        for name in ("agent", f"{PREFIX}no-digest"):
            store.roots.commit(name, conversation)

        again = at_home(store, wall)
        again.put(OTHER, reply(), 60.0)
        again.put(THIRD, reply(), 60.0)

        assert {"agent", f"{PREFIX}no-digest"} < set(store.roots)
        assert len(again) == 3


def test_a_disk_that_refuses_costs_the_next_process_a_reply_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cold = FakeCold()  # type: ignore[no-untyped-call]
    store = open_on(cold, tmp_path / "home", monkeypatch)  # type: ignore[no-untyped-call]
    cache = at_home(store, Wall())
    cold.refuses = 1

    assert cache.put(ONE, reply(), 60.0)
    settle(store)  # type: ignore[no-untyped-call]

    assert cache.get(ONE) is not None
    assert names(store) == []
    store.close()


def test_a_reply_that_is_damaged_on_disk_is_a_miss_and_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cold = FakeCold()  # type: ignore[no-untyped-call]
    store = open_on(cold, tmp_path / "home", monkeypatch)  # type: ignore[no-untyped-call]
    at_home(store, Wall()).put(ONE, reply("x" * 5000), 60.0)
    store.close()
    for table in ("record", "segment"):
        for key in list(cold.rows(table)):  # type: ignore[no-untyped-call]
            cold.spoil(table, key)  # type: ignore[no-untyped-call]

    again = open_on(cold, tmp_path / "home", monkeypatch)  # type: ignore[no-untyped-call]
    cache = at_home(again, Wall())

    assert cache.get(ONE) is None
    assert cache.statistics() == CacheStatistics(
        replies=0, bytes=0, hits=0, misses=1, evicted=0, expired=0, lost=1
    )
    assert names(again) == []
    again.close()
