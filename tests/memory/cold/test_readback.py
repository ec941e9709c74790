"""A conversation read back from disk, with no store around it."""

from avm.memory.cold.lookup import Lookup
from avm.memory.cold.readback import read_back
from avm.memory.cold.records import conversation_id
from tests.memory.cold.opened import TOOLS, said


def test_a_conversation_is_read_back_without_a_store(opened):
    found = read_back(Lookup(opened.cold), conversation_id("long"))

    assert (found.name, found.system, found.tools, found.meta) == ("long", "You are kind.", TOOLS, {})
    assert found.messages == [*[said(n, 3000) for n in range(24)], said("body", 6000)]
    assert read_back(Lookup(opened.cold), conversation_id("nobody")) is None
