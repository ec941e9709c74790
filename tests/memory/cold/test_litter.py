"""What nobody needs any more is dropped, as long as it is known what is needed."""

from avm.memory.cold.litter import drop_dictionaries


def test_dictionaries_that_nothing_was_made_with_are_dropped(opened, trained):
    assert drop_dictionaries(opened.cold) == 1

    assert [key for key, _ in opened.cold.scan("dictionary")] == [trained[0].key]
    assert opened.verify().is_sound


def test_all_dictionaries_are_kept_if_it_is_not_known_which_are_needed(opened, trained):
    opened.write("record", b"k" * 32, b"what was this made with?")

    assert drop_dictionaries(opened.cold) is None
    assert len(opened.cold.scan("dictionary")) == 2
