"""Supervision trees as values: what a child is, and what a supervisor is, checked before anything runs.

`child(...)` says how one actor is started, restarted and stopped. `supervisor(...)` and `dynamic_supervisor(...)`
(beside their actors, in `supervisor.py` and `dynamic.py`) make a `SupervisorSpec`, which is a `ChildSpec` too, so
trees nest.
A `SupervisorSpec` checks itself and its children when it is made, so one that exists is right (S52); `validate` checks
any value that claims to be a tree. Specs print as an indented picture and compare with ==.

Arguments for the actor travel by reference: every incarnation gets the same objects, so hand in values.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal, Never

import attrs

from avm.actors.actor import Actor
from avm.actors.event import ATOMS
from avm.errors import SpecError, SpecWarning
from avm.scheduler import PRIORITIES, Priority
from avm.supervision.faults import (
    brief,
    call_fault,
    call_hint,
    choice,
    cut,
    is_count,
    is_seconds,
    shown,
    unknown_options,
    wrong,
)
from avm.supervision.intensity import NO_BACKOFF, Backoff

RestartType = Literal["permanent", "transient", "temporary"]
Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]
AutoShutdown = Literal["never", "any_significant", "all_significant"]
Grace = float | Literal["brutal_kill", "infinity"]
"""How a child is stopped: seconds from the order to the kill, at once, or as long as it takes (S58)."""

RESTART_TYPES = ("permanent", "transient", "temporary")
STRATEGIES = ("one_for_one", "one_for_all", "rest_for_one")
AUTO_SHUTDOWNS = ("never", "any_significant", "all_significant")

PLAIN_WINDOW = (1, 5.0)
"""OTP's restart intensity; a child class with `restart_window = (max_restarts, max_seconds)` asks for another."""


@attrs.frozen(slots=True)
class ChildSpec:
    """How one child is started, restarted and stopped (S51). Made by `child()`.

    Attributes:
        id: unique in its supervisor, and the child's part of the path.
        actor, args, kwargs: the class, and what its `__init__` gets at every start.
        restart: permanent (always), transient (after an abnormal end), temporary (never).
        shutdown: see `Grace`.
        significant: its end may end its supervisor, see `auto_shutdown` (S72).
        name: registered at every start, if given.
        start_timeout: seconds that a start may take, None for no limit.
        priority, max_mailbox: instead of the class's own; None leaves them.
    """

    id: str
    actor: type[Actor]
    args: tuple[object, ...] = ()
    kwargs: dict[str, object] = attrs.field(factory=dict, hash=False)
    restart: RestartType = "permanent"
    shutdown: Grace = 5.0
    significant: bool = False
    name: str | None = None
    priority: Priority | None = None
    start_timeout: float | None = 30.0
    max_mailbox: int | None = None

    @property
    def kind(self) -> Literal["worker", "supervisor"]:
        """What OTP calls the child's type."""
        return "worker"

    @property
    def start_args(self) -> tuple[object, ...]:
        """What `actor` is called with."""
        return self.args

    @property
    def factory(self) -> str:
        """The call that makes the actor, as text of at most some 80 characters."""
        given = [brief(a) for a in self.args] + [f"{k}={brief(v)}" for k, v in self.kwargs.items()]
        return f"{self.actor.__name__}({cut(', '.join(given), 60)})"

    def without_args(self) -> ChildSpec:
        """Return the spec as it is kept for a child that will not start again: its arguments may be large."""
        return attrs.evolve(self, args=(), kwargs={}) if self.args or self.kwargs else self

    def draw(self) -> str:
        """Return the tree as an indented picture."""
        return "\n".join(_draw(self))

    def __str__(self) -> str:
        return self.draw()


@attrs.frozen(slots=True, kw_only=True)
class SupervisorSpec(ChildSpec):
    """How a supervisor is started and what it does. Made by `supervisor()` and `dynamic_supervisor()`.

    Attributes:
        strategy: who is restarted with a failed child (S64).
        children: in start order; none for a dynamic supervisor.
        max_restarts, max_seconds: the restart intensity (S66).
        auto_shutdown: whether the ends of significant children end the supervisor (S72).
        backoff: the wait before a restart (S73).
        dynamic: children come and go at run time, in no order.
        max_children: of a dynamic supervisor; None for no limit.
    """

    strategy: Strategy = "one_for_one"
    children: tuple[ChildSpec, ...] = ()
    max_restarts: int = PLAIN_WINDOW[0]
    max_seconds: float = PLAIN_WINDOW[1]
    auto_shutdown: AutoShutdown = "never"
    backoff: Backoff = NO_BACKOFF
    dynamic: bool = False
    max_children: int | None = None

    def __attrs_post_init__(self) -> None:
        _check_supervisor(self)
        check_children(self, self.children)

    @property
    def kind(self) -> Literal["worker", "supervisor"]:
        return "supervisor"

    @property
    def start_args(self) -> tuple[object, ...]:
        return (self,)

    def without_args(self) -> ChildSpec:
        return self


# Specs cross to supervisors in `StartChild`. They are values; their arguments travel by reference by contract.
ATOMS.update((ChildSpec, SupervisorSpec))


def child(
    id: str,
    cls: type[Actor],
    *args: object,
    restart: RestartType = "permanent",
    shutdown: Grace = 5.0,
    significant: bool = False,
    name: str | None = None,
    priority: Priority | None = None,
    start_timeout: float | None = 30.0,
    max_mailbox: int | None = None,
    kwargs: dict[str, object] | None = None,
    **unknown: Never,
) -> ChildSpec:
    """Describe a child: `args` and `kwargs` are for the actor, the other keywords for its supervisor.

    The supervisor it is given to checks it and names both in the error.

    Raises:
        SpecError: a keyword that is no option of a child.
    """
    if unknown:
        raise unknown_options(f"child {id!r}", child, unknown)
    return ChildSpec(
        id=id,
        actor=cls,
        args=args,
        kwargs=kwargs if kwargs is not None else {},
        restart=restart,
        shutdown=shutdown,
        significant=significant,
        name=name,
        priority=priority,
        start_timeout=start_timeout,
        max_mailbox=max_mailbox,
    )


def validate(tree: ChildSpec) -> None:
    """Check a whole tree without starting anything.

    Raises:
        SpecError: the first thing that cannot be right: whose field, what was shown, what was expected.
    """
    if not isinstance(tree, ChildSpec):
        raise SpecError(
            f"a tree must be made by supervisor() or child(), got {shown(tree)}.{call_hint(tree)}"
        )
    if not isinstance(tree, SupervisorSpec):
        _check_fields(tree, f"child {tree.id!r}")
        return
    _check_supervisor(tree)
    check_children(tree, tree.children)
    for each in tree.children:
        if isinstance(each, SupervisorSpec):
            validate(each)


def window_of(children: Iterable[object]) -> tuple[int, float]:
    """Return the restart intensity the children's classes ask for with `restart_window`, the longest; else OTP's."""
    asked = [_asked(c, "restart_window") for c in children]
    return max((w for w in asked if w is not None), key=lambda w: w[1], default=PLAIN_WINDOW)


def backoff_of(children: Iterable[object]) -> Backoff:
    """Return the backoff the children's classes ask for with `restart_backoff`, the longest; else none."""
    asked = [_asked(c, "restart_backoff") for c in children]
    return max((b for b in asked if b is not None), key=lambda b: b.max, default=NO_BACKOFF)


def check_children(owner: SupervisorSpec, children: Sequence[ChildSpec]) -> None:
    """Check children against the supervisor that is to have them (S52).

    Raises:
        SpecError: a field of one of them, or two of one id.
    """
    places: dict[str, int] = {}
    for place, spec in enumerate(children):
        if not isinstance(spec, ChildSpec):
            raise SpecError(
                f"supervisor {owner.id!r}: children must be made by child() or supervisor(), "
                f"got {shown(spec)} at place {place}.{call_hint(spec)}"
            )
        who = f"child {spec.id!r} of supervisor {owner.id!r}"
        _check_fields(spec, who)
        _check_significance(spec, who, owner.auto_shutdown)
        _warn_of_silence(spec, who)
        if places.setdefault(spec.id, place) != place:
            raise SpecError(
                f"supervisor {owner.id!r}: ids of children must differ, got {spec.id!r} at places "
                f"{places[spec.id]} and {place}. Rename one of them."
            )


# -- checks, field by field ---------------------------------------------------------------------------------------


def _check_fields(spec: ChildSpec, who: str) -> None:
    if not isinstance(spec.id, str) or not spec.id or "/" in spec.id:
        raise wrong(who, "id", "text that is not empty and has no '/'", spec.id)
    if not (isinstance(spec.actor, type) and issubclass(spec.actor, Actor)):
        raise wrong(who, "cls", "a subclass of Actor", spec.actor)
    if spec.restart not in RESTART_TYPES:
        raise wrong(who, "restart", choice(RESTART_TYPES), spec.restart)
    if spec.shutdown not in ("brutal_kill", "infinity") and not is_seconds(spec.shutdown):
        raise wrong(who, "shutdown", "seconds >= 0, 'brutal_kill' or 'infinity'", spec.shutdown)
    if not isinstance(spec.significant, bool):
        raise wrong(who, "significant", "True or False", spec.significant)
    if spec.name is not None and not (isinstance(spec.name, str) and spec.name):
        raise wrong(who, "name", "None or text that is not empty", spec.name)
    if spec.priority is not None and spec.priority not in PRIORITIES:
        raise wrong(who, "priority", f"None, {choice(PRIORITIES)}", spec.priority)
    if spec.start_timeout is not None and not (is_seconds(spec.start_timeout) and spec.start_timeout > 0):
        raise wrong(who, "start_timeout", "None or seconds > 0", spec.start_timeout)
    if spec.max_mailbox is not None and not is_count(spec.max_mailbox, 1):
        raise wrong(who, "max_mailbox", "None or a whole number >= 1", spec.max_mailbox)
    if not isinstance(spec.kwargs, dict) or not all(isinstance(k, str) for k in spec.kwargs):
        raise wrong(who, "kwargs", "a dict with names as keys", spec.kwargs)
    if not isinstance(spec, SupervisorSpec):
        _check_call(spec, who)


def _check_call(spec: ChildSpec, who: str) -> None:
    fault = call_fault(spec.actor, len(spec.args), tuple(spec.kwargs))  # type: ignore[arg-type]
    if fault is not None:
        raise SpecError(
            f"{who}: arguments must fit {spec.actor.__name__}.__init__, got {spec.factory}: {fault}."
        )


def _check_significance(spec: ChildSpec, who: str, auto_shutdown: str) -> None:
    if not spec.significant:
        return
    if auto_shutdown == "never":
        raise SpecError(
            f"{who}: significant must be False while auto_shutdown is 'never', got True. Give the supervisor "
            "auto_shutdown='any_significant' or 'all_significant'."
        )
    if spec.restart == "permanent":
        raise SpecError(
            f"{who}: significant must be False for a permanent child, which is always restarted, got True. "
            "Make it restart='transient' or 'temporary'."
        )


def _warn_of_silence(spec: ChildSpec, who: str) -> None:
    """Warn of a branch that would stay down without anyone hearing of it (S71)."""
    if isinstance(spec, SupervisorSpec) and spec.restart != "permanent" and not spec.significant:
        warnings.warn(
            f"{who}: a {spec.restart} supervisor that gives up is not restarted, and its branch stays down in "
            "silence; leave restart='permanent' so that giving up escalates, or make it significant.",
            SpecWarning,
            stacklevel=6,
        )


def _check_supervisor(spec: SupervisorSpec) -> None:
    who = f"supervisor {spec.id!r}"
    _check_fields(spec, who)
    if spec.strategy not in STRATEGIES:
        raise wrong(who, "strategy", choice(STRATEGIES), spec.strategy)
    if not is_count(spec.max_restarts, 0):
        raise wrong(who, "max_restarts", "a whole number >= 0", spec.max_restarts)
    if not (is_seconds(spec.max_seconds) and spec.max_seconds > 0):
        raise wrong(who, "max_seconds", "seconds > 0", spec.max_seconds)
    if spec.auto_shutdown not in AUTO_SHUTDOWNS:
        raise wrong(who, "auto_shutdown", choice(AUTO_SHUTDOWNS), spec.auto_shutdown)
    if not isinstance(spec.backoff, Backoff):
        raise wrong(who, "backoff", "a Backoff", spec.backoff)
    if spec.max_children is not None and not is_count(spec.max_children, 0):
        raise wrong(who, "max_children", "None or a whole number >= 0", spec.max_children)
    if not isinstance(spec.children, tuple):
        raise wrong(who, "children", "a list of child() and supervisor()", spec.children)


def _asked(child: object, attribute: str) -> Any:
    return getattr(child.actor, attribute, None) if isinstance(child, ChildSpec) else None


# -- the picture --------------------------------------------------------------------------------------------------


def _draw(spec: ChildSpec) -> Iterable[str]:
    yield f"{spec.id}: {', '.join(_traits(spec))}"
    children = spec.children if isinstance(spec, SupervisorSpec) else ()
    for each in children:
        last = each is children[-1]
        for n, line in enumerate(_draw(each)):
            mark = ("└── " if last else "├── ") if n == 0 else ("    " if last else "│   ")
            yield mark + line


def _traits(spec: ChildSpec) -> Iterable[str]:
    """Say what a line of the picture shows: the kind, then whatever is not as usual."""
    usual: Grace = 5.0
    if isinstance(spec, SupervisorSpec):
        usual = "infinity"
        yield from _supervisor_traits(spec)
    else:
        yield spec.factory
    if spec.restart != "permanent":
        yield spec.restart
    if spec.significant:
        yield "significant"
    if spec.shutdown != usual:
        yield spec.shutdown if isinstance(spec.shutdown, str) else f"shutdown {spec.shutdown:g} s"
    if spec.name is not None:
        yield f"name {spec.name!r}"
    if spec.priority is not None:
        yield f"priority {spec.priority}"


def _supervisor_traits(spec: SupervisorSpec) -> Iterable[str]:
    yield "dynamic" if spec.dynamic else spec.strategy
    yield f"{spec.max_restarts} restart{'' if spec.max_restarts == 1 else 's'} in {spec.max_seconds:g} s"
    if spec.max_children is not None:
        yield f"at most {spec.max_children} children"
    if spec.auto_shutdown != "never":
        yield f"auto_shutdown {spec.auto_shutdown}"
    if spec.backoff != NO_BACKOFF:
        yield f"backoff {spec.backoff.min:g} to {spec.backoff.max:g} s"
