"""Specs and trees as values: fields, checks, pictures (S51, S52)."""

from __future__ import annotations

import warnings
from typing import Any

import attrs
import pytest

from avm.actors.actor import Actor
from avm.errors import SpecError, SpecWarning
from avm.supervision import (
    Backoff,
    ChildSpec,
    DynamicSupervisor,
    Supervisor,
    SupervisorSpec,
    child,
    dynamic_supervisor,
    supervisor,
    validate,
)


class Critic(Actor):
    def __init__(self, tone: str = "kind") -> None:
        self.tone = tone


class Editor(Actor):
    pass


class Thinker(Actor):
    """Asks for a longer window, as agents do."""

    restart_window = (3, 300.0)
    restart_backoff = Backoff(1.0, 60.0, jitter=0.5)


def test_s51_a_child_has_the_defaults_of_otp() -> None:
    spec = child("critic", Critic, "harsh")

    assert (spec.id, spec.actor, spec.args) == ("critic", Critic, ("harsh",))
    assert (spec.restart, spec.shutdown, spec.significant, spec.kind) == ("permanent", 5.0, False, "worker")
    assert spec.start_timeout == 30.0


def test_s51_a_supervisor_has_the_defaults_of_otp() -> None:
    spec = supervisor("newsroom")

    assert (spec.strategy, spec.max_restarts, spec.max_seconds) == ("one_for_one", 1, 5)
    assert (spec.auto_shutdown, spec.restart, spec.shutdown) == ("never", "permanent", "infinity")
    assert (spec.kind, spec.actor, spec.children) == ("supervisor", Supervisor, ())


def test_s51_a_dynamic_supervisor_is_one_for_one_without_children() -> None:
    spec = dynamic_supervisor("pool", max_children=7)

    assert (spec.strategy, spec.children, spec.max_children) == ("one_for_one", (), 7)
    assert (spec.dynamic, spec.actor) == (True, DynamicSupervisor)


def test_a_supervisor_spec_is_itself_a_child() -> None:
    inner = supervisor("inner", children=[child("critic", Critic)])

    outer = supervisor("outer", children=[inner])

    assert isinstance(inner, ChildSpec)
    assert outer.children == (inner,)


def test_trees_compare_by_value_and_do_not_change() -> None:
    def tree(tone: str) -> SupervisorSpec:
        return supervisor("newsroom", children=[child("critic", Critic, tone), child("editor", Editor)])

    assert tree("kind") == tree("kind")
    assert tree("kind") != tree("harsh")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        tree("kind").strategy = "one_for_all"  # type: ignore[misc]


def test_a_tree_prints_as_an_indented_picture() -> None:
    tree = supervisor(
        "newsroom",
        strategy="rest_for_one",
        max_restarts=3,
        max_seconds=60,
        auto_shutdown="any_significant",
        children=[
            child("critic", Critic, "kind", priority="user"),
            supervisor(
                "desk",
                children=[child("editor", Editor, restart="transient", shutdown=10, significant=False)],
            ),
            dynamic_supervisor("pool", max_children=9, backoff=Backoff(0.5)),
            child("last", Editor, restart="temporary", significant=True, shutdown="brutal_kill", name="tail"),
        ],
    )

    assert str(tree) == tree.draw()
    assert tree.draw().splitlines() == [
        "newsroom: rest_for_one, 3 restarts in 60 s, auto_shutdown any_significant",
        "├── critic: Critic('kind'), priority user",
        "├── desk: one_for_one, 1 restart in 5 s",
        "│   └── editor: Editor(), transient, shutdown 10 s",
        "├── pool: dynamic, 1 restart in 5 s, at most 9 children, backoff 0.5 to 30 s",
        "└── last: Editor(), temporary, significant, brutal_kill, name 'tail'",
    ]


CHILD_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"restart": "always"}, "restart must be 'permanent', 'transient' or 'temporary', got 'always'."),
    ({"shutdown": -1}, "shutdown must be seconds >= 0, 'brutal_kill' or 'infinity', got -1."),
    ({"shutdown": "soon"}, "shutdown must be seconds >= 0, 'brutal_kill' or 'infinity', got 'soon'."),
    ({"shutdown": True}, "shutdown must be seconds >= 0, 'brutal_kill' or 'infinity', got True."),
    ({"shutdown": float("inf")}, "shutdown must be seconds >= 0, 'brutal_kill' or 'infinity', got inf."),
    ({"shutdown": float("nan")}, "shutdown must be seconds >= 0, 'brutal_kill' or 'infinity', got nan."),
    ({"shutdown": None}, "shutdown must be seconds >= 0, 'brutal_kill' or 'infinity', got None."),
    ({"significant": 1}, "significant must be True or False, got 1."),
    ({"name": ""}, "name must be None or text that is not empty, got ''."),
    ({"priority": "high"}, "priority must be None, 'user', 'normal' or 'background', got 'high'."),
    ({"start_timeout": 0}, "start_timeout must be None or seconds > 0, got 0."),
    ({"max_mailbox": 0}, "max_mailbox must be None or a whole number >= 1, got 0."),
    ({"kwargs": [1]}, "kwargs must be a dict with names as keys, got [1]."),
]


@pytest.mark.parametrize("options, text", CHILD_FAULTS)
def test_s52_a_wrong_field_of_a_child_is_named_with_its_value(options: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError) as caught:
        supervisor("newsroom", children=[child("editor", Editor, **options)])

    assert str(caught.value) == f"child 'editor' of supervisor 'newsroom': {text}"


@pytest.mark.parametrize("id", ["", "a/b", 7, None])
def test_s52_a_child_needs_an_id(id: Any) -> None:
    with pytest.raises(SpecError, match=r"id must be text that is not empty and has no '/', got "):
        supervisor("newsroom", children=[child(id, Editor)])


@pytest.mark.parametrize("cls", [None, int, "Editor", object()])
def test_s52_a_child_needs_an_actor_class(cls: Any) -> None:
    with pytest.raises(
        SpecError, match="child 'x' of supervisor 'newsroom': cls must be a subclass of Actor, got "
    ):
        supervisor("newsroom", children=[child("x", cls)])


def test_s52_arguments_that_do_not_fit_the_class_are_found_before_the_start() -> None:
    with pytest.raises(SpecError) as caught:
        supervisor("newsroom", children=[child("critic", Critic, "kind", 3)])

    assert str(caught.value) == (
        "child 'critic' of supervisor 'newsroom': arguments must fit Critic.__init__, got Critic('kind', 3): "
        "too many positional arguments."
    )


SUPERVISOR_FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"strategy": "all"}, "strategy must be 'one_for_one', 'one_for_all' or 'rest_for_one', got 'all'."),
    ({"max_restarts": -1}, "max_restarts must be a whole number >= 0, got -1."),
    ({"max_restarts": 1.5}, "max_restarts must be a whole number >= 0, got 1.5."),
    ({"max_seconds": 0}, "max_seconds must be seconds > 0, got 0."),
    ({"max_seconds": "5"}, "max_seconds must be seconds > 0, got '5'."),
    (
        {"auto_shutdown": True},
        "auto_shutdown must be 'never', 'any_significant' or 'all_significant', got True.",
    ),
    ({"restart": "always"}, "restart must be 'permanent', 'transient' or 'temporary', got 'always'."),
    ({"shutdown": -0.5}, "shutdown must be seconds >= 0, 'brutal_kill' or 'infinity', got -0.5."),
    ({"backoff": 3}, "backoff must be a Backoff, got 3."),
    ({"children": 3}, "children must be a list of child() and supervisor(), got 3."),
    ({"children": "ab"}, "children must be a list of child() and supervisor(), got 'ab'."),
]


@pytest.mark.parametrize("options, text", SUPERVISOR_FAULTS)
def test_s52_a_wrong_flag_is_named_with_its_value(options: dict[str, Any], text: str) -> None:
    with pytest.raises(SpecError) as caught:
        supervisor("newsroom", **options)

    assert str(caught.value) == f"supervisor 'newsroom': {text}"


def test_s52_max_children_is_checked() -> None:
    with pytest.raises(
        SpecError, match=r"supervisor 'pool': max_children must be None or a whole number >= 0, got -1\."
    ):
        dynamic_supervisor("pool", max_children=-1)


def test_s52_ids_of_children_differ() -> None:
    children = [child("critic", Critic), child("editor", Editor), child("critic", Editor)]

    with pytest.raises(SpecError) as caught:
        supervisor("newsroom", children=children)

    assert str(caught.value) == (
        "supervisor 'newsroom': ids of children must differ, got 'critic' at places 0 and 2. Rename one of them."
    )


def test_s52_a_significant_child_needs_auto_shutdown() -> None:
    with pytest.raises(SpecError) as caught:
        supervisor("newsroom", children=[child("critic", Critic, restart="transient", significant=True)])

    assert str(caught.value) == (
        "child 'critic' of supervisor 'newsroom': significant must be False while auto_shutdown is 'never', got "
        "True. Give the supervisor auto_shutdown='any_significant' or 'all_significant'."
    )


def test_s52_a_significant_child_is_not_permanent() -> None:
    with pytest.raises(
        SpecError, match="significant must be False for a permanent child, which is always restarted"
    ):
        supervisor(
            "newsroom", auto_shutdown="any_significant", children=[child("critic", Critic, significant=True)]
        )


@pytest.mark.parametrize("given", [Critic, "critic", lambda: None])
def test_s52_children_are_made_by_child_or_supervisor(given: Any) -> None:
    with pytest.raises(
        SpecError, match=r"children must be made by child\(\) or supervisor\(\), got .* at place 1\."
    ):
        supervisor("newsroom", children=[child("editor", Editor), given])


def test_s51_an_unknown_option_of_a_child_is_rejected() -> None:
    with pytest.raises(
        SpecError, match=r"^child 'editor': options must be among restart, .* got restrat='x'\. Did you"
    ):
        child("editor", Editor, restrat="x")  # type: ignore[arg-type]


def test_s51_a_keyword_for_the_actor_is_sent_to_kwargs() -> None:
    with pytest.raises(SpecError, match=r"If it is for the actor, pass kwargs=\{'tone': \.\.\.\}\.$"):
        child("critic", Critic, tone="kind")  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [supervisor, dynamic_supervisor])
def test_s51_an_unknown_flag_of_a_supervisor_is_rejected(make: Any) -> None:
    with pytest.raises(
        SpecError, match=r"^supervisor 'x': options must be among .* Did you mean max_restarts\?$"
    ):
        make("x", max_restart=3)


def test_s52_validate_checks_a_tree_without_starting_it() -> None:
    good = supervisor("top", children=[supervisor("inner", children=[child("critic", Critic)])])

    validate(good)
    with pytest.raises(SpecError, match="child 'x': restart must be"):
        validate(child("x", Critic, restart="never"))  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="strategy must be"):
        attrs.evolve(good, strategy="none")  # type: ignore[arg-type]


def test_s52_validate_says_what_to_do_with_a_function_that_makes_a_tree() -> None:
    def newsroom() -> ChildSpec:
        return supervisor("newsroom")

    with pytest.raises(
        SpecError, match=r"a tree must be made by supervisor\(\) or child\(\), got .*Call it: newsroom"
    ):
        validate(newsroom)  # type: ignore[arg-type]


@pytest.mark.parametrize("restart", ["transient", "temporary"])
def test_s71_a_supervisor_that_would_vanish_in_silence_is_warned_of(restart: Any) -> None:
    with pytest.warns(
        SpecWarning, match="child 'inner' of supervisor 'outer': a t.* supervisor that gives up"
    ):
        supervisor("outer", children=[supervisor("inner", restart=restart)])


def test_s71_a_significant_supervisor_is_not_warned_of() -> None:
    inner = supervisor("inner", restart="transient", significant=True)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        supervisor("outer", auto_shutdown="any_significant", children=[inner, supervisor("other")])


def test_the_class_of_a_child_may_ask_for_its_restart_window() -> None:
    tree = supervisor("team", children=[child("critic", Critic), child("thinker", Thinker)])

    assert (tree.max_restarts, tree.max_seconds) == (3, 300)
    assert tree.backoff == Thinker.restart_backoff


def test_a_given_window_wins_over_that_of_the_classes() -> None:
    tree = supervisor("team", max_restarts=9, backoff=Backoff(), children=[child("thinker", Thinker)])

    assert (tree.max_restarts, tree.max_seconds, tree.backoff) == (9, 300, Backoff())


def test_the_factory_of_a_child_is_short_however_long_its_arguments() -> None:
    spec = child("critic", Critic, "x" * 10_000)

    assert len(spec.factory) < 80
