"""What is wrong in a home is mended where that loses nothing."""

import attrs

from avm.memory import Conversation, Store
from avm.memory.cold.records import conversation_id, segment_key
from avm.memory.cold.repair import repair
from tests.memory.cold.opened import Opened, said


def test_a_repair_mends_what_can_be_mended_and_says_what_it_did(opened):
    manifest, id = opened.manifest("short"), conversation_id("short")
    opened.flip("record", opened.manifest("long").pages[0].key)
    opened.write("edge", manifest.system[0] + conversation_id("bare"), b"")
    opened.write("edge", manifest.system[0] + id, None)
    opened.write("segment", segment_key(id, 3), b"x")
    report = opened.verify()

    done = repair(opened.cold, report)

    assert attrs.astuple(done) == (1, 1, 1, 1)
    after = opened.verify()
    assert [problem.kind for problem in after.problems] == ["missing record"]
    assert after.quarantined == 1
    assert repair(opened.cold, after).changes == 0


def test_content_that_was_set_aside_is_whole_again_when_it_is_written_again(opened, home):
    opened.flip("record", opened.manifest("long").pages[0].key)
    repair(opened.cold, opened.verify())
    opened.cold.close()
    opened.home.close()

    with Store.open(home, durable=False) as store:
        again = Conversation(store).extend(said(n, 3000) for n in range(24))
        store.roots.commit("again", again)

    with Opened(home) as opened:
        assert opened.verify().is_sound


def test_the_edges_of_a_damaged_manifest_are_left_alone(opened):
    opened.flip("conversation", conversation_id("long"), at=40)

    report = opened.verify()

    assert [problem.kind for problem in report.problems] == ["conversation"]
    assert repair(opened.cold, report).changes == 0
