"""Where the choices of a simulation come from: a seed, a list of deviations, a recording, or Hypothesis.

A choice is a number below `n`: which of `n` ready actors runs next, which of `n` equal timers fires, which of `n`
calls is answered first. 0 always means the first in line, what the real scheduler would have taken. So a list of
zeros is the plain run, and the fewer numbers are not zero, the simpler is the story of a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Protocol

from avm.errors import ReplayDiverged, ReplayStopped, SimulationError


class Choices(Protocol):
    """A source of choices."""

    def choose(self, n: int) -> int:
        """Return a number from 0 to n - 1; `n` is at least 2."""


class Seeded:
    """Choices by chance: the same for the same seed in every process."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._random = Random(seed)

    def choose(self, n: int) -> int:
        """Return any of the numbers with equal chance."""
        return int(self._random.random() * n)


class Deviations:
    """First in line, but for a few decisions: the form in which a schedule is small, and shrinks well.

    Args:
        at: the number of a decision (the first is 0) to what is chosen there; too large a choice counts from the
            start again.
    """

    def __init__(self, at: Mapping[int, int] | Iterable[tuple[int, int]] = ()) -> None:
        self.at = dict(at)
        self._number = -1

    def choose(self, n: int) -> int:
        """Return what is listed for this decision, else 0."""
        self._number += 1
        return self.at.get(self._number, 0) % n


class Recorded:
    """The choices of a run that was recorded; first in line once they are used up.

    Args:
        taken: what was chosen, one number for each decision.
        sizes: out of how many each time; None does not compare.
    """

    def __init__(self, taken: Sequence[int], sizes: Sequence[int] | None = None) -> None:
        self._taken = taken
        self._sizes = sizes
        self._number = -1

    def choose(self, n: int) -> int:
        """Return the next recorded choice.

        Raises:
            ReplayDiverged: there is something else to choose from than there was.
        """
        self._number += 1
        number = self._number
        if number >= len(self._taken):
            return 0
        if self._sizes is not None and self._sizes[number] != n:
            raise ReplayDiverged(
                f"decision {number} was one of {self._sizes[number]} when it was recorded and is one of {n} now: the "
                "code has changed since, or it depends on something a simulation does not see, such as datetime.now, "
                "uuid4, the order of a set, or what another test left behind."
            )
        return min(self._taken[number], n - 1)


class Drawn:
    """Choices from a function of `n`, such as Hypothesis draws: `Drawn(lambda n: data.draw(st.integers(0, n - 1)))`.

    A simulation makes hundreds of choices and Hypothesis can shrink only so much; `Deviations` drawn as a small
    dictionary find as many bugs and shrink far better.
    """

    def __init__(self, draw: Callable[[int], int]) -> None:
        self._draw = draw

    def choose(self, n: int) -> int:
        """Draw one."""
        return self._draw(n)


class Halt(KeyboardInterrupt):
    """Stops the loop where it is: nothing in an actor system may catch it. `error` is what it is about."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(error)
        self.error = error


class Schedule:
    """The choices of one run as they were made: takes them from a source and keeps what was taken.

    Attributes:
        taken, sizes: what was chosen at each decision, and out of how many.
        stop_at: the decision before which to stop; None is none.
    """

    __slots__ = ("_source", "sizes", "stop_at", "taken")

    def __init__(self, source: Choices) -> None:
        self._source = source
        self.taken: list[int] = []
        self.sizes: list[int] = []
        self.stop_at: int | None = None

    def choose(self, n: int) -> int:
        """Choose one of `n`; nothing is decided where there is only one."""
        if n < 2:
            return 0
        number = len(self.taken)
        if number == self.stop_at:
            raise Halt(ReplayStopped(f"stopped before decision {number}, one of {n}.", number))
        # Whatever goes wrong in a source (Hypothesis ends an example so) is not the actor system's to handle.
        try:
            chosen = self._source.choose(n)
        except BaseException as error:
            raise Halt(error) from error
        if not 0 <= chosen < n:
            raise Halt(
                SimulationError(
                    f"the source of choices {self._source!r} chose {chosen!r} where 0 to {n - 1} were to choose from."
                )
            )
        self.taken.append(chosen)
        self.sizes.append(n)
        return chosen

    def let_go(self) -> None:
        """Take whatever is first in line from now on, as when all that is left is to end."""
        self._source = Deviations()
        self.stop_at = None

    @property
    def deviations(self) -> dict[int, int]:
        """The decisions in which not the first in line was taken; `Deviations` takes them."""
        return {number: chosen for number, chosen in enumerate(self.taken) if chosen}
