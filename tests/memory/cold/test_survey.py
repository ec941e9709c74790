"""Counting what is in a home."""

from avm.memory import Store
from avm.memory.cold.opening import disk_bytes
from avm.memory.cold.survey import survey
from tests.memory.cold.opened import Opened


def test_a_survey_counts_what_is_shared_and_what_is_stored(opened):
    found = survey(opened.cold, opened.home.path)

    counts = {kind: share.count for kind, share in found.kinds.items()}
    assert counts == {"blobs": 3, "pages": 2, "starts": 2, "segments": 3}
    assert found.logical_bytes == sum(
        opened.manifest(name).size for name in ("long", "same", "short", "bare")
    )
    assert found.unique_bytes < 0.7 * found.logical_bytes
    assert found.dedup == 1 - found.unique_bytes / found.logical_bytes
    assert 1.5 < found.compression < 2.5
    assert found.disk_bytes == disk_bytes(opened.home.path)
    assert (found.orphans.count, found.damaged, found.quarantined) == (0, 0, 0)


def test_what_no_conversation_refers_to_is_counted_apart(home):
    with Store.open(home) as store:
        store.roots.forget("short")
        store.roots.forget("long").result()

    with Opened(home) as opened:
        found = survey(opened.cold, opened.home.path)

    assert (found.conversations, found.orphans.count) == (2, 1)
    assert found.dedup == 0.0
