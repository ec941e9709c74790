"""Which prefixes of prompts are cold, warming and warm, who leads and who waits."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from avm.errors import SpecError
from avm.io.prefix import KINDS, WINDOW, Chain, Link, PrefixTable
from avm.io.request import Usage


def chain_of(*names: str, tokens: int = 2_000) -> Chain:
    """A prompt of some pages of equal size, each named by the pages up to it."""
    return tuple(
        Link("/".join(names[: n + 1]).encode(), tokens * (n + 1)) for n, name in enumerate(names) if name
    )


TRUNK = chain_of("system")
LEFT = chain_of("system", "left")
RIGHT = chain_of("system", "right")


def table_of(min_tokens: int = 1_024, **options: float) -> PrefixTable:
    return PrefixTable(min_tokens, **options)  # type: ignore[arg-type]


# Leaders and followers.


def test_of_1_000_agents_on_one_prompt_one_leads_and_all_others_go_once_it_has_begun() -> None:
    table = table_of()
    told = {who: table.enter(TRUNK, who, 0.0) for who in range(1_000)}
    followers = [who for who, key in told.items() if key is not None]

    assert followers == list(range(1, 1_000))
    assert {told[who] for who in followers} == {b"system"}
    assert table.begun(0, 1.0) == [b"system"]
    assert [table.enter(TRUNK, who, 1.0) for who in followers] == [None] * 999
    assert not any(table.leads(who) for who in followers)
    assert table.statistics(1.0).leaders == 1


def test_when_the_leader_fails_the_next_to_enter_leads_and_the_others_wait_on() -> None:
    table = table_of()
    for who in range(4):
        table.enter(TRUNK, who, 0.0)

    assert table.failed(0, 1.0) == [b"system"]

    assert [table.enter(TRUNK, who, 1.0) for who in (1, 2, 3)] == [None, b"system", b"system"]
    assert table.leads(1)


def test_forks_of_one_conversation_wait_for_the_trunk_and_then_each_branch_has_its_leader() -> None:
    table = table_of()
    forks = {1: LEFT, 2: LEFT, 3: RIGHT, 4: RIGHT}
    assert table.enter(TRUNK, 0, 0.0) is None
    assert {table.enter(chain, who, 0.0) for who, chain in forks.items()} == {b"system"}

    table.begun(0, 1.0)
    told = {who: table.enter(chain, who, 1.0) for who, chain in forks.items()}

    assert told == {1: None, 2: b"system/left", 3: None, 4: b"system/right"}
    assert table.begun(3, 2.0) == [b"system/right"]
    assert table.enter(RIGHT, 4, 2.0) is None
    assert table.enter(LEFT, 2, 2.0) == b"system/left"


def test_a_call_on_a_cold_conversation_leads_its_trunk_and_its_branch() -> None:
    table = table_of()
    table.enter(LEFT, 1, 0.0)

    assert table.enter(RIGHT, 2, 0.0) == b"system"
    assert table.begun(1, 1.0) == [b"system", b"system/left"]
    assert table.enter(LEFT, 3, 1.0) is None
    assert table.covered(LEFT, 1.0) == 4_000


def test_a_leader_that_enters_again_does_not_wait_for_itself() -> None:
    table = table_of()
    table.enter(TRUNK, 1, 0.0)

    assert table.enter(LEFT, 1, 1.0) is None

    assert table.begun(1, 2.0) == [b"system", b"system/left"]


def test_a_call_that_went_on_its_way_and_failed_twice_gives_its_prefixes_up_once() -> None:
    table = table_of()
    table.enter(TRUNK, 1, 0.0)

    assert table.failed(1, 1.0) == [b"system"]
    assert table.failed(1, 1.0) == []


def test_a_response_that_begins_after_its_call_was_cancelled_warms_nothing() -> None:
    table = table_of()
    table.enter(TRUNK, 1, 0.0)
    table.failed(1, 1.0)

    assert table.begun(1, 2.0) == []
    assert table.covered(TRUNK, 2.0) == 0


def test_a_call_that_fails_after_its_response_has_begun_leaves_its_prefix_warm() -> None:
    table = table_of()
    table.enter(TRUNK, 1, 0.0)
    table.begun(1, 1.0)

    assert table.failed(1, 2.0) == []
    assert table.covered(TRUNK, 2.0) == 2_000


def test_nobody_waits_for_a_prefix_that_is_too_short_to_be_cached() -> None:
    table = table_of(2_001)

    assert [table.enter(TRUNK, who, 0.0) for who in range(3)] == [None] * 3
    assert not table.leads(0)
    assert table.statistics(0.0).known == 0


def test_of_a_prompt_only_the_links_that_are_long_enough_are_led() -> None:
    table = table_of(2_001)
    table.enter(LEFT, 1, 0.0)

    assert table.begun(1, 1.0) == [b"system/left"]


def test_a_prompt_without_links_goes_at_once() -> None:
    assert table_of().enter((), 1, 0.0) is None


# Time.


def test_a_warm_prefix_is_cold_again_when_its_time_is_over() -> None:
    table = table_of(ttl=300.0)
    table.enter(TRUNK, 1, 0.0)
    table.begun(1, 10.0)

    assert table.covered(TRUNK, 309.9) == 2_000
    assert table.covered(TRUNK, 310.0) == 0
    assert table.enter(TRUNK, 2, 310.0) is None
    assert table.leads(2)
    assert table.enter(TRUNK, 3, 310.0) == b"system"


def test_a_prefix_that_is_read_lives_on() -> None:
    table = table_of(ttl=300.0)
    table.enter(LEFT, 1, 0.0)
    table.begun(1, 0.0)

    table.used(TRUNK, 200.0)

    assert table.covered(LEFT, 299.0) == 4_000
    assert table.covered(LEFT, 301.0) == 2_000
    assert table.covered(LEFT, 500.0) == 0


def test_reading_does_not_revive_what_is_cold() -> None:
    table = table_of(ttl=300.0)
    table.enter(TRUNK, 1, 0.0)
    table.begun(1, 0.0)

    table.used(TRUNK, 300.0)

    assert table.covered(TRUNK, 300.0) == 0


def test_a_prefix_that_is_written_for_an_hour_lives_an_hour() -> None:
    table = table_of(ttl=300.0)
    table.enter(TRUNK, 1, 0.0, ttl=3_600.0)
    table.begun(1, 0.0)
    table.used(TRUNK, 1_000.0)

    assert table.covered(TRUNK, 4_599.0) == 2_000
    assert table.covered(TRUNK, 4_600.0) == 0


# What is remembered.


def test_the_prefixes_that_were_not_met_for_longest_are_forgotten() -> None:
    table = table_of(most=2)
    for who, name in enumerate("abac"):
        table.enter(chain_of(name), who, 0.0)
        table.begun(who, 0.0)

    assert [table.covered(chain_of(name), 1.0) for name in "abc"] == [2_000, 0, 2_000]
    assert table.statistics(1.0).known == 2


def test_a_prefix_that_warms_is_not_forgotten_whatever_comes() -> None:
    table = table_of(most=3)
    table.enter(TRUNK, 0, 0.0)
    for who in range(1, 50):
        table.enter(chain_of(f"other{who}"), who, 0.0)
        table.failed(who, 0.0)

    assert table.enter(TRUNK, 99, 1.0) == b"system"
    assert table.statistics(1.0).known == 4


def test_a_prefix_that_has_just_been_written_is_the_last_to_be_forgotten() -> None:
    table = table_of(most=2)
    table.enter(TRUNK, 0, 0.0)
    for who, name in enumerate("ab", 1):
        table.enter(chain_of(name), who, 0.0)
        table.failed(who, 0.0)

    table.begun(0, 1.0)

    assert table.covered(TRUNK, 1.0) == 2_000
    assert table.statistics(1.0).known == 2


@pytest.mark.parametrize("options", [{"ttl": 0.0}, {"most": 0}])
def test_a_table_that_could_keep_nothing_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(SpecError, match="ttl and most must be above 0"):
        table_of(**options)


# Where histories part.


def test_agents_that_go_on_differently_part_at_the_last_link_they_share() -> None:
    table = table_of()
    for who, name in enumerate(("ann", "bob")):
        table.enter(chain_of("system", "plan", name), who, 0.0, owner=name)

    assert table.shared(chain_of("system", "plan", "ann")) == [1]


def test_a_fork_of_a_fork_parts_twice_and_the_pages_between_do_not_count() -> None:
    table = table_of()
    trunk = ("system", "p1", "p2", "p3")
    for owner, names in {
        "ann": (*trunk, "q1", "q2", "ann"),
        "bob": (*trunk, "q1", "q2", "bob"),
        "cid": (*trunk, "cid"),
        "dan": ("system", "dan"),
    }.items():
        table.expect(chain_of(*names), owner)

    assert table.shared(chain_of(*trunk, "q1", "q2", "ann")) == [5, 3]
    assert table.shared(chain_of(*trunk, "cid")) == [3, 0]
    assert table.shared(chain_of("system", "dan")) == [0]


def test_histories_that_have_parted_stay_so_whoever_comes_next() -> None:
    table = table_of()
    table.expect(chain_of("system", "left", "ann"), "ann")
    table.expect(RIGHT, "bob")
    table.expect(chain_of("system", "left", "cid"), "cid")

    assert table.shared(chain_of("system", "left", "ann")) == [1, 0]


def test_where_an_agent_was_in_earlier_turns_is_no_parting() -> None:
    table = table_of()
    table.expect(chain_of("system", "turn1"), "ann")
    table.expect(chain_of("system", "page", "turn2"), "ann")
    table.expect(chain_of("system", "page", "bob"), "bob")

    assert table.shared(chain_of("system", "page", "bob")) == [1]


def test_a_conversation_that_one_agent_goes_on_with_parts_nowhere() -> None:
    table = table_of()
    names = ["system"]
    for turn in range(5):
        names.append(f"turn{turn}")
        table.enter(chain_of(*names), turn, 0.0, owner="ann")
        table.begun(turn, 0.0)

    assert table.shared(chain_of(*names)) == []


def test_agents_with_the_very_same_prompt_part_at_its_end() -> None:
    table = table_of()
    for who, owner in enumerate(("ann", "bob")):
        table.enter(LEFT, who, 0.0, owner=owner)

    assert table.shared(LEFT) == [1]


def test_the_first_of_many_knows_where_they_part_if_they_are_expected() -> None:
    table = table_of()
    table.expect(LEFT, "ann")
    table.expect(RIGHT, "bob")

    table.enter(LEFT, 1, 0.0, owner="ann")

    assert table.shared(LEFT) == [0]


def test_calls_that_do_not_say_whose_they_are_count_as_of_different_agents() -> None:
    table = table_of()
    table.enter(LEFT, 1, 0.0)
    assert table.shared(LEFT) == []

    table.enter(RIGHT, 2, 0.0)

    assert table.shared(LEFT) == [0]


# What replies say.

READ = Usage(input_tokens=100, cache_read_tokens=900)
FRESH = Usage(input_tokens=1_000)


def measure(table: PrefixTable, kind: str, *usages: Usage, apart: float = 1.0) -> list[str]:
    said = [table.measured(kind, usage, n * apart) for n, usage in enumerate(usages)]
    return [sentence for sentence in said if sentence is not None]


def test_a_share_that_collapses_is_said_once() -> None:
    said = measure(table_of(), "Researcher", *[READ] * 50, *[FRESH] * 200)

    assert len(said) == 1
    assert said[0].startswith("prompt cache: Researcher read 4")
    assert "and 90% in the 20 before. Look for what changes early in their prompts" in said[0]


def test_a_share_that_is_good_again_may_collapse_again() -> None:
    said = measure(table_of(), "Researcher", *([READ] * 40 + [FRESH] * 40) * 3)

    assert len(said) == 3


def test_a_share_that_never_was_good_is_not_spoken_of() -> None:
    poor = Usage(input_tokens=600, cache_read_tokens=400)

    assert measure(table_of(), "Researcher", *[poor] * 50, *[FRESH] * 50) == []


def test_a_few_good_calls_are_too_few_to_speak_of() -> None:
    assert measure(table_of(), "Researcher", *[READ] * (WINDOW // 2 - 1), *[FRESH] * 100) == []


def test_one_class_of_agents_does_not_hide_another() -> None:
    table = table_of()
    both = [(kind, usage) for usage in [READ] * 30 + [FRESH] * 30 for kind in ("Critic", "Editor")]
    said = [
        table.measured(kind, READ if kind == "Editor" else usage, n * 1.0)
        for n, (kind, usage) in enumerate(both)
    ]

    assert [sentence.split()[2] for sentence in said if sentence] == ["Critic"]
    assert table.statistics(0.0).shares == {"Critic": 0.0, "Editor": 0.9}


def test_calls_that_come_too_far_apart_are_told_of_the_hour() -> None:
    said = measure(table_of(ttl=300.0), "", *[READ] * 30, *[FRESH] * 30, apart=400.0)

    assert "agents without a class" in said[0]
    assert "They come 400 s apart and the cache lives 300 s: use prompt_cache='hour'." in said[0]


def test_a_reply_that_counts_nothing_is_not_measured() -> None:
    table = table_of()

    assert table.measured("Researcher", Usage(output_tokens=5), 0.0) is None
    assert table.statistics(0.0).shares == {}


def test_the_table_shows_what_it_knows_and_what_was_read() -> None:
    table = table_of()
    for who in (1, 2, 3):
        table.enter(TRUNK, who, 0.0)
    table.begun(1, 1.0)
    table.enter(RIGHT, 2, 1.0)
    table.measured("Critic", Usage(10, 1, 0, 2_000), 1.0)
    table.measured("Critic", Usage(20, 1, 2_000, 0), 1.0)

    found = table.statistics(1.0)

    assert (found.known, found.warming, found.warm) == (2, 1, 1)
    assert (found.leaders, found.followed, found.hits) == (1, 2, 1)
    assert (found.read_tokens, found.written_tokens, found.fresh_tokens) == (2_000, 2_000, 30)
    assert found.shares["Critic"] == pytest.approx(2_000 / 4_030)


# Laws.

PROMPTS = st.lists(st.sampled_from("ab"), min_size=1, max_size=4).map(lambda names: chain_of(*names))


class Gate(RuleBasedStateMachine):
    """Calls that enter, wait, begin, fail and end in any order, as a gate with one table would have them."""

    def __init__(self) -> None:
        super().__init__()
        self.table = PrefixTable(3_000, ttl=100.0, most=5)
        self.now = 0.0
        self.calls = 0
        self.going: dict[int, Chain] = {}
        self.waiting: dict[int, tuple[Chain, bytes]] = {}

    def enter(self, who: int, chain: Chain) -> None:
        key = self.table.enter(chain, who, self.now, owner=f"a{who % 3}")
        if key is None:
            self.going[who] = chain
        else:
            assert key in {link.key for link in chain}
            self.waiting[who] = (chain, key)

    def wake(self, keys: list[bytes]) -> None:
        woken = [(who, chain) for who, (chain, key) in self.waiting.items() if key in keys]
        for who, chain in woken:
            del self.waiting[who]
            self.enter(who, chain)

    @rule(chain=PROMPTS)
    def come(self, chain: Chain) -> None:
        self.calls += 1
        self.enter(self.calls, chain)

    @rule(data=st.data(), begins=st.booleans())
    def answer(self, data: st.DataObject, begins: bool) -> None:
        if not self.going:
            return
        who = data.draw(st.sampled_from(sorted(self.going)))
        chain = self.going.pop(who)
        led = self.table.begun(who, self.now) if begins else self.table.failed(who, self.now)
        warm = {link.key for link in chain if link.tokens <= self.table.covered(chain, self.now)}
        assert not begins or set(led) <= warm
        assert self.table.failed(who, self.now) == self.table.begun(who, self.now) == []
        self.wake(led)

    @rule(seconds=st.floats(0, 150))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    @rule(chain=PROMPTS)
    def read(self, chain: Chain) -> None:
        before = self.table.covered(chain, self.now)
        self.table.used(chain, self.now)
        assert self.table.covered(chain, self.now) == before

    @invariant()
    def a_key_has_one_leader_and_who_waits_has_one_under_way(self) -> None:
        led = [key for who in self.going for key in self.table._leading.get(who, ())]
        assert len(led) == len(set(led))
        assert {key for _, key in self.waiting.values()} <= set(led)
        assert self.table.statistics(self.now).warming == len(led)
        assert set(self.table._leading) <= set(self.going)

    @invariant()
    def no_more_is_known_than_is_allowed(self) -> None:
        found = self.table.statistics(self.now)
        assert found.known - found.warming <= 5

    def teardown(self) -> None:
        """Once every call that is under way has ended, nobody is left waiting."""
        while self.going:
            self.now += 1.0
            who = min(self.going)
            del self.going[who]
            self.wake(self.table.begun(who, self.now))
        assert not self.waiting


TestGate = pytest.mark.slow(Gate.TestCase)
TestGate.settings = settings(stateful_step_count=25)


@given(st.lists(PROMPTS, min_size=1, max_size=30))
def test_a_tree_of_forks_is_written_page_by_page_and_every_page_once(chains: list[Chain]) -> None:
    table = PrefixTable(0)
    waiting = dict(enumerate(chains))
    written: list[bytes] = []
    while waiting:
        went = [who for who, chain in waiting.items() if table.enter(chain, who, 0.0) is None]
        assert went, "somebody can always go"
        for who in went:
            del waiting[who]
            written += table.begun(who, 0.0)

    assert sorted(written) == sorted({link.key for chain in chains for link in chain})


def test_of_the_shares_only_those_of_the_last_thousand_classes_are_kept() -> None:
    table = PrefixTable(1024)
    for n in range(KINDS + 50):
        table.measured(f"k{n}", Usage(input_tokens=1), 0.0)
        table.measured("busy", Usage(input_tokens=1), 0.0)

    shares = table.statistics(0.0).shares

    assert len(shares) == KINDS
    assert "busy" in shares
    assert "k0" not in shares
