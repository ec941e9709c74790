"""Sizes as people write them, and what the system says of memory."""

import os

import pytest

from avm.memory import Ceiling, Store, format_size, memory_limit, parse_size, rss_bytes, trim_heap

GB = 1 << 30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("16GB", 16 * GB),
        ("512 MiB", GB // 2),
        ("1.5g", GB * 3 // 2),
        (" 2gb ", 2 * GB),
        ("1T", 1024 * GB),
        ("131072k", GB // 8),
        ("134217728", GB // 8),
        (134217728, GB // 8),
        ("64MB", GB // 16),
    ],
)
def test_a_size_is_a_number_and_a_unit(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "much", "GB", "-1GB", "16 GB RAM", "1e9", "16XB", "1..5GB", "∞", "0x10", True]
)
def test_nonsense_is_refused_with_examples_of_a_size(text):
    with pytest.raises(ValueError, match=r"is not a size; write a number and a unit: '16GB'"):
        parse_size(text)


@pytest.mark.parametrize("text", ["63MB", "0", "1.5", 1])
def test_a_size_below_the_floor_is_refused_with_the_floor(text):
    with pytest.raises(ValueError, match="below the floor of 64 MB"):
        parse_size(text)


def test_sizes_are_written_as_they_are_read():
    assert [format_size(n) for n in (0, 1023, 1536, 64 << 20, 16 * GB)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KB",
        "64 MB",
        "16 GB",
    ]


def test_the_process_takes_memory_and_may_take_more():
    limit = memory_limit()

    assert rss_bytes() > 1_000_000
    assert limit is None or limit > rss_bytes()


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="no /proc here")
def test_rss_grows_with_what_is_used():
    before = rss_bytes()
    block = b"x" * (32 << 20)

    assert rss_bytes() - before > 16 << 20
    del block


def machine(root, cgroup, limits):
    """Make proc and sys of a machine with 8 GB whose cgroups have these limits."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("MemFree: 1 kB\nMemTotal:        8388608 kB\n")
    (root / "proc/self/cgroup").write_text(cgroup)
    for path, text in limits.items():
        file = root / "sys/fs/cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return root


def test_without_a_cgroup_the_limit_is_the_machine(tmp_path):
    assert memory_limit(machine(tmp_path, "", {})) == 8 * GB


def test_a_cgroup_v2_limit_counts_wherever_it_is_set(tmp_path):
    limits = {"a/b/memory.max": "max\n", "a/memory.max": "1073741824\n", "memory.max": "2147483648\n"}

    assert memory_limit(machine(tmp_path, "0::/a/b\n", limits)) == GB


def test_a_cgroup_v2_without_limits_leaves_the_machine(tmp_path):
    assert memory_limit(machine(tmp_path, "0::/a\n", {"a/memory.max": "max\n"})) == 8 * GB


def test_a_cgroup_v1_limit_counts(tmp_path):
    cgroup = "12:cpu,cpuacct:/x\n9:memory:/docker/abc\n"
    limits = {
        "memory/memory.limit_in_bytes": "9223372036854771712\n",
        "memory/docker/abc/memory.limit_in_bytes": "536870912\n",
    }

    assert memory_limit(machine(tmp_path, cgroup, limits)) == GB // 2


def test_in_a_container_the_limit_is_at_the_mount_itself(tmp_path):
    machine(tmp_path, "0::/../host/path\n", {"memory.max": "268435456\n"})

    assert memory_limit(tmp_path) == GB // 4


def test_a_system_that_tells_nothing_has_no_known_limit(tmp_path):
    assert memory_limit(tmp_path) is None


# The ceiling of a process.

MB = 1 << 20


class Measured:
    """What the process is said to take."""

    def __init__(self, taken):
        self.taken = taken

    def __call__(self):
        return self.taken


def full_store(size=10 * MB):
    store = Store(1000 * MB, spills=True)
    blob = store.put(os.urandom(size))
    return store, blob


def test_the_store_may_grow_by_half_of_what_is_left_below_the_target():
    store, blob = full_store()
    account = store.statistics().account_bytes
    store.limit_to(account)

    assert not Ceiling(store, 100 * MB, rss=Measured(60 * MB)).check()

    assert store.limit == account + 12.5 * MB
    assert blob.size == 10 * MB


def test_what_it_was_allowed_stands_while_the_process_takes_no_more_than_it_may():
    """What it spilled is free on the heap, and RSS does not show that."""
    store, blob = full_store()
    account = store.statistics().account_bytes
    store.limit_to(account + MB)

    assert Ceiling(store, 100 * MB, rss=Measured(88 * MB)).check(), "but the heap is to be trimmed"

    assert store.limit == account + MB
    assert blob.size == 10 * MB


def test_what_it_was_allowed_and_never_took_is_given_to_the_rest_of_the_process():
    store, blob = full_store()
    account = store.statistics().account_bytes
    store.limit_to(80 * MB)

    Ceiling(store, 100 * MB, rss=Measured(85 * MB)).check()

    assert store.limit == account + account // 4
    assert blob.size == 10 * MB


def test_above_the_alarm_the_store_is_to_shrink_by_what_is_too_much():
    store, blob = full_store()

    assert Ceiling(store, 100 * MB, rss=Measured(91 * MB)).check()

    assert store.limit == store.statistics().account_bytes - 6 * MB
    assert blob.size == 10 * MB


def test_a_process_that_takes_all_for_itself_leaves_the_store_a_little_to_work_with():
    store, _ = full_store()

    assert Ceiling(store, 96 * MB, rss=Measured(500 * MB)).check()

    assert store.limit == 3 * MB


def test_a_lower_limit_of_the_machine_holds():
    store, _ = full_store()

    assert Ceiling(store, 100 * MB, machine=50 * MB).limit == 50 * MB
    assert Ceiling(store, 100 * MB, machine=500 * MB).limit == 100 * MB
    assert Ceiling(store, 100 * MB).limit == 100 * MB


def test_the_heap_is_trimmed_where_the_c_library_can():
    """Twice: there may be nothing to give back."""
    assert trim_heap() in (True, False)
    assert trim_heap() in (True, False)
