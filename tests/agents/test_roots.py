"""The table of committed conversations."""

from avm.agents import Roots
from avm.memory import Conversation, Store


def test_the_last_commit_of_a_name_is_its_root() -> None:
    roots, store = Roots(), Store()
    first = Conversation(store)
    second = first.append({"role": "user", "content": "x"})

    roots.commit("a", first)
    roots.commit("a", second)

    assert roots.get("a") is second
    assert roots.statistics().commits == 2
    assert (len(roots), list(roots)) == (1, ["a"])


def test_a_forgotten_root_is_gone() -> None:
    roots = Roots()
    root = Conversation(Store())
    roots.commit("a", root)

    assert roots.forget("a") is root
    assert roots.forget("a") is None
    assert "a" not in roots
