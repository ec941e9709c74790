"""The fair queue: calls that wait at a gate, and which of them goes next.

Two questions are answered one after the other. *Which class?* Turns go round in a fixed pattern of 21: 16 `user`, 4
`normal`, 1 `background`, spread so that no two turns in a row pass the users by; a class in which nobody waits is
skipped. Turns are counted in calls: a user waits for other calls, never for a debt of tokens. *Which agent of the
class?* Deficit round robin in tokens: every round gives each waiting agent `QUANTUM` tokens, and an agent's first call
goes in the round in which they cover its cost. So agents with long prompts get fewer calls and as many tokens.

Rounds are computed, not walked: an agent stands in line by the number of the round in which it can go, so a call of
150,000 tokens costs one entry in a heap and not 150 laps around the agents.

Nothing starves: a class whose oldest call waits longer than `RISES_AFTER` has *risen* by one, after `URGENT_AFTER` to
`user`. A class that has calls of its own shares its turns with the highest of those that have risen to it, one for one:
a crowd that has grown old shares the turns of the users, but a user who comes now stands behind at most one of it. Age
counts between classes only. Among calls of one class it decides nothing, or in a storm, where all wait for minutes,
those that were served already would overtake those that were not.

A call that there is no room for yet may be passed, by calls of higher classes only: else smaller ones of its own class
or below would always find room before it.

This is a plain object: it knows the time only from what `take` is told, and how old a call is from its `asked`.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from itertools import count
from typing import Generic, Protocol, TypeVar

import attrs

from avm.errors import SpecError

TURNS = ("user", "user", "user", "normal") * 4 + ("user",) * 4 + ("background",)
"""Whose turn it is, round and round."""

QUANTUM = 1_000
"""Tokens a round gives each agent that waits."""

RISES_AFTER = 30.0
"""Seconds that its oldest call waits after which a class counts as one higher too."""

URGENT_AFTER = 120.0
"""Seconds that its oldest call waits after which any class counts as `user` too."""


class Waiting(Protocol):
    """What a queue holds. None of these changes while it is in the queue, but for `withdrawn`, which the queue sets."""

    priority: str
    """"user", "normal" or "background"."""
    agent: str
    """Whose call it is: agents get equal shares."""
    cost: int
    """Tokens, 1 or more."""
    asked: float
    """When it was asked for; seconds on the clock that `take` is told of."""
    withdrawn: bool


T = TypeVar("T", bound=Waiting)
S = TypeVar("S")


class _Line(Generic[S]):
    """A line that one may leave from the middle: first is the lowest rank, of equal ranks the lowest ticket.

    Whoever has left stays in the heap as a number until it comes to the front, or until such numbers are the majority.
    """

    __slots__ = ("_heap", "_standing")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []
        self._standing: dict[int, S] = {}

    def stand(self, rank: float, ticket: int, who: S) -> None:
        """Come in; no two that stand have one ticket."""
        self._standing[ticket] = who
        heapq.heappush(self._heap, (rank, ticket))

    def leave(self, ticket: int) -> None:
        """Go; does nothing if nobody has this ticket."""
        self._standing.pop(ticket, None)
        if self._heap and self._heap[0][1] == ticket:
            heapq.heappop(self._heap)
        elif len(self._heap) > 2 * len(self._standing) + 64:
            self._heap = [place for place in self._heap if place[1] in self._standing]
            heapq.heapify(self._heap)

    def first(self) -> S:
        """Return who is first; somebody stands here."""
        heap, standing = self._heap, self._standing
        while heap[0][1] not in standing:
            heapq.heappop(heap)
        return standing[heap[0][1]]

    def __len__(self) -> int:
        return len(self._standing)


@attrs.define(slots=True, eq=False)
class _Call(Generic[T]):
    """One item in the queue. `cost` is what its agent has to pay still, `ticket` its place among those of its age."""

    item: T
    agent: str
    cost: int
    asked: float
    ticket: int
    kind: _Class[T]


@attrs.define(slots=True, eq=False)
class _Account(Generic[T]):
    """The calls of one agent in one class, and the tokens it had left in round `since`.

    It stands in line with `ticket`, for the round `rank`, in which its first call can go.
    """

    since: int
    balance: int = 0
    rank: int = 0
    ticket: int = 0
    calls: OrderedDict[_Call[T], None] = attrs.field(factory=OrderedDict)


class _Class(Generic[T]):
    """The calls of one class: agents in deficit round robin, and the calls by age.

    Attributes:
        lower: classes that may rise to it and the ages after which they have, the highest first.
        shares_next: whether its next turn goes to one of them.
    """

    __slots__ = ("accounts", "ages", "line", "lower", "name", "round", "shares_next")

    def __init__(self, name: str, *lower: tuple[_Class[T], float]) -> None:
        self.name = name
        self.lower = lower
        self.shares_next = False
        self.accounts: dict[str, _Account[T]] = {}
        self.ages: _Line[_Call[T]] = _Line()
        self.line: _Line[_Account[T]] = _Line()
        self.round = 0

    def served(self, now: float) -> _Class[T]:
        """Return the class that gets a turn of this one, in which somebody waits."""
        if self.shares_next:
            for kind, limit in self.lower:
                if kind.ages and now - kind.ages.first().asked > limit:
                    return kind
        return self

    def add(self, call: _Call[T], ticket: int, *, front: bool = False) -> None:
        """Take a call in, behind its agent's others or before them; `ticket` is the agent's if it has to stand anew."""
        account = self.enter(call, front=front)
        if front or len(account.calls) == 1:
            self.rank(account, ticket)

    def enter(self, call: _Call[T], *, front: bool) -> _Account[T]:
        """Take a call in and return its agent's account, which does not stand in line for it yet."""
        self.ages.stand(call.asked, call.ticket, call)
        account = self.accounts.get(call.agent)
        if account is None:
            account = self.accounts[call.agent] = _Account(self.round)
        account.calls[call] = None
        if front:
            account.calls.move_to_end(call, last=False)
        return account

    def remove(self, call: _Call[T], ticket: int) -> None:
        """Let a call go, wherever it stands. An agent whose last it was is forgotten, with the tokens it had left."""
        self.ages.leave(call.ticket)
        account = self.accounts[call.agent]
        was_first = next(iter(account.calls)) is call
        del account.calls[call]
        if not account.calls:
            self.line.leave(account.ticket)
            del self.accounts[call.agent]
        elif was_first:
            self.rank(account, ticket)

    def rank(self, account: _Account[T], ticket: int) -> None:
        """Let an agent stand where its first call belongs: in the round in which its tokens cover it."""
        lacking = next(iter(account.calls)).cost - account.balance
        rounds = -(-lacking // QUANTUM) if lacking > 0 else 0
        # What was withdrawn may have been dearer: then the tokens were there in a round that is over.
        account.rank = max(self.round, account.since + rounds)
        self.line.leave(account.ticket)
        account.ticket = ticket
        self.line.stand(account.rank, ticket, account)

    def pay(self, account: _Account[T], cost: int) -> None:
        """Go on to the round of the account and charge it."""
        self.round = account.rank
        account.balance += (account.rank - account.since) * QUANTUM - cost
        account.since = account.rank


@attrs.define(slots=True, eq=False)
class _Taken(Generic[T]):
    """The last call that was taken, and how all was before it."""

    call: _Call[T]
    turn: int
    giver: _Class[T]
    """Whose turn it was."""
    shares_next: bool
    round: int
    since: int
    balance: int
    ticket: int


class FairQueue(Generic[T]):
    """The queue of one gate; every operation costs a few microseconds, however many wait."""

    __slots__ = ("_calls", "_classes", "_taken", "_tickets", "_turn", "_turns")

    def __init__(self) -> None:
        background: _Class[T] = _Class("background")
        normal = _Class("normal", (background, RISES_AFTER))
        user = _Class("user", (normal, RISES_AFTER), (background, URGENT_AFTER))
        # The highest first.
        self._classes = {kind.name: kind for kind in (user, normal, background)}
        self._turns = tuple(self._classes[name] for name in TURNS)
        self._calls: dict[int, _Call[T]] = {}
        self._tickets = count(1)
        self._turn = 0
        self._taken: _Taken[T] | None = None

    def put(self, item: T) -> None:
        """Add a call behind its agent's others.

        Raises:
            SpecError: its priority is no class, or it is in the queue already.
        """
        self._add(item)

    def put_front(self, item: T) -> None:
        """Add a call before its agent's others, as one that is tried again; it is as old as its `asked` says.

        Raises:
            SpecError: as `put`.
        """
        self._add(item, front=True)

    def take(self, now: float, above: str | None = None) -> T | None:
        """Take the next call, None if nothing waits. Its agent is charged its cost, its class one turn.

        Args:
            above: the class of a call that was put back because there is no room for it yet: the next call of the
                classes above it is taken, None if nobody waits in them. The turn stays with the one put back.
        """
        if above is not None:
            return self._pass(above)
        turn = self._turn
        for _ in TURNS:
            giver = self._turns[turn]
            # Most classes are empty most of the time.
            if giver.accounts:
                return self._charge(giver.served(now), giver, turn)
            turn = (turn + 1) % len(TURNS)
        return None

    def put_back(self, item: T) -> None:
        """Put back what was taken, as if it had not been: it is next again.

        If other calls have been taken since, their turns stay taken: the call then goes before its agent's others, in
        the present round, and costs nothing, because its agent has paid for it.

        Raises:
            SpecError: as `put`.
        """
        taken = self._taken
        if taken is None or taken.call.item is not item:
            self._add(item, front=True, is_paid=True)
            return
        self._refuse_second(item)
        self._undo(taken)

    def withdraw(self, item: T) -> None:
        """Take a waiting call out and mark it; does nothing if it is not in the queue."""
        call = self._calls.get(id(item))
        if call is not None:
            item.withdrawn = True
            self._forget(call)

    def __len__(self) -> int:
        return len(self._calls)

    def depth(self) -> dict[str, int]:
        """Return how many calls of each class wait: the class they came with, not the one they have risen to."""
        return {name: len(kind.ages) for name, kind in self._classes.items()}

    def oldest(self) -> float | None:
        """Return when the call was asked that has waited longest; None if nothing waits."""
        return min((kind.ages.first().asked for kind in self._classes.values() if kind.ages), default=None)

    def _add(self, item: T, *, front: bool = False, is_paid: bool = False) -> None:
        self._refuse_second(item)
        priority = item.priority
        kind = self._classes.get(priority)
        if kind is None:
            raise SpecError(
                f"FairQueue: the priority of a call of {item.agent or 'nobody'} must be 'user', 'normal' or "
                f"'background', got {priority!r}."
            )
        ticket = next(self._tickets)
        call = _Call(item, item.agent, 0 if is_paid else max(1, item.cost), item.asked, ticket, kind)
        kind.add(call, ticket, front=front)
        self._calls[id(item)] = call

    def _refuse_second(self, item: T) -> None:
        if id(item) in self._calls:
            raise SpecError(
                f"FairQueue: a call of {item.agent or 'nobody'} is in the queue already. Put it there once, and again "
                f"only after `take` or `withdraw`."
            )

    def _forget(self, call: _Call[T]) -> None:
        call.kind.remove(call, next(self._tickets))
        del self._calls[id(call.item)]

    def _pass(self, above: str) -> T | None:
        for kind in self._classes.values():
            if kind.name == above:
                return None
            if kind.accounts:
                turn, shares_next = self._turn, kind.shares_next
                item = self._charge(kind, kind, turn)
                self._turn, kind.shares_next = turn, shares_next
                return item
        return None

    def _charge(self, kind: _Class[T], giver: _Class[T], turn: int) -> T:
        account = kind.line.first()
        call = next(iter(account.calls))
        before = (giver.shares_next, kind.round, account.since, account.balance, account.ticket)
        self._taken = _Taken(call, self._turn, giver, *before)
        self._turn = (turn + 1) % len(TURNS)
        giver.shares_next = kind is giver
        kind.pay(account, call.cost)
        self._forget(call)
        return call.item

    def _undo(self, taken: _Taken[T]) -> None:
        call, kind = taken.call, taken.call.kind
        account = kind.enter(call, front=True)
        kind.round = taken.round
        account.since, account.balance = taken.since, taken.balance
        kind.rank(account, taken.ticket)
        taken.giver.shares_next = taken.shares_next
        self._turn = taken.turn
        self._calls[id(call.item)] = call
        self._taken = None
