"""A home with a little of everything, also open, and dictionaries in it."""

import pytest

from avm.memory import Conversation, Store
from avm.memory.cold import records
from avm.memory.cold.lookup import Lookup
from avm.memory.compression import Dictionary
from tests.memory.cold.opened import TOOLS, Opened, said


@pytest.fixture
def home(tmp_path):
    """`long` and `same` share two pages and a body; `short` has a tail of segments, `bare` nothing at all."""
    with Store.open(tmp_path / "home", durable=False) as store:
        body = said("body", 6000)
        long = (
            Conversation(store, "You are kind.", TOOLS).extend(said(n, 3000) for n in range(24)).append(body)
        )
        store.roots.commit("long", long)
        store.roots.commit("same", long.append(said("end")))
        short = Conversation(store, "You are kind.")
        for n in range(3):
            short = short.append(said(n))
            store.roots.commit("short", short)
        store.roots.commit("bare", Conversation(store, meta={"id": "x"}))
    return tmp_path / "home"


@pytest.fixture
def opened(home):
    with Opened(home) as opened:
        yield opened


@pytest.fixture
def trained(opened):
    """A dictionary that one record was made with, and one that none was."""
    used, unused = Dictionary(b"what they have in common " * 50), Dictionary(b"nothing in common " * 50)
    for each in (used, unused):
        opened.write("dictionary", each.key, each.content)
    system = opened.manifest("short").system[0]
    content = Lookup(opened.cold).content(system).content
    packed = used.contexts.compressor.compress(content)
    opened.write("record", system, records._pack((1, len(content), used.key, [], b"\x02" + packed)))
    return used, unused
