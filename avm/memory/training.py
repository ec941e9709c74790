"""Training: the dictionary of one kind of content, made of what the fleet itself writes, and made again when it pays
no more.

Content is sampled as it is compressed. When there is enough of it a dictionary is trained on nine tenths and tried on
the last one: it is taken if it makes records smaller. From then on the ratio of what is compressed is watched: when a
window of it compresses 15 % worse than the dictionary did at first, the next window is sampled, a candidate is trained,
and it takes the place of the old one if it is 5 % better. No dictionary ships with avm: one made of foreign texts gains
about 4 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from weakref import ref

import attrs

from avm.memory.ceiling import trim_heap
from avm.memory.compression import Dictionary, compress, train

if TYPE_CHECKING:
    from avm.memory.kept import Kept

    Referent = ref[Kept]

TRAINING_SIZE = 1_500_000
"""Bytes of content to be seen before a dictionary is trained, and between two looks at whether it still pays."""

LARGEST_SAMPLE = 64 * 1024
"""Bytes of one sample; of longer content the beginning is taken."""

WORSE = 0.85
"""A window whose ratio is below this part of the ratio at training calls for another dictionary."""

BETTER = 0.95
"""A candidate must make the held-out samples this much smaller than they are without it."""


@attrs.frozen(slots=True)
class Trained:
    """What came of training: the dictionary, None if it would not pay, and the ratio that can be expected."""

    dictionary: Dictionary | None
    ratio: float


class Training:
    """The dictionary of one kind of content, and whether there should be another. One thread uses it."""

    def __init__(self) -> None:
        self.dictionary: Dictionary | None = None
        self._expected = 0.0
        self._holders: list[Referent] = []
        self._sampled = 0
        self._raw = self._packed = 0
        self.is_sampling = True
        self.is_training = False

    def take(self, holder: Kept, size: int, packed: int) -> None:
        """Take note of content that was compressed.

        Args:
            holder: what holds it. While content is sampled it is remembered, weakly: the samples themselves are read
                when they are needed.
            size, packed: bytes before and after.
        """
        if self.is_sampling:
            if not self.is_training:
                self._holders.append(ref(holder))
                self._sampled += min(size, LARGEST_SAMPLE)
            return
        self._raw += size
        self._packed += packed
        if self._raw >= TRAINING_SIZE:
            self.is_sampling = self._raw / self._packed < WORSE * self._expected
            self._raw = self._packed = 0

    def samples(self, read: Callable[[Kept], bytes | None]) -> list[bytes] | None:
        """Return the samples to train on, once, when there are enough; `finish` is to be called afterwards.

        Args:
            read: returns the content of a holder, None if it is not in RAM.
        """
        if self.is_training or self._sampled < TRAINING_SIZE:
            return None
        found: dict[bytes, Referent] = {}
        for holder in self._holders:
            living = holder()
            content = read(living) if living is not None else None
            if content is not None:
                found[content[:LARGEST_SAMPLE]] = holder
        # Equal contents teach nothing, and what has died cannot.
        self._sampled = sum(map(len, found))
        if self._sampled < TRAINING_SIZE:
            self._holders = list(found.values())
            return None
        self._holders, self._sampled = [], 0
        self.is_training = True
        return list(found)

    def finish(self, trained: Trained | None) -> bool:
        """Take in what came of training, None if it was not carried out; tell whether the dictionary is a new one."""
        self.is_training = False
        if trained is None:
            return False
        self.is_sampling = False
        self._expected = trained.ratio
        if trained.dictionary is None:
            return False
        self.dictionary = trained.dictionary
        return True


def train_on(samples: Sequence[bytes], present: Dictionary | None) -> Trained:
    """Train on nine tenths of samples, try the outcome on the rest. Any thread; 0.2-0.5 s of CPU without the GIL."""
    held_out = samples[::10]
    rest = [sample for number, sample in enumerate(samples) if number % 10]
    size = sum(map(len, held_out))
    before = sum(len(compress(sample, present)) for sample in held_out)
    candidate = train(rest)
    # Training takes ten times its samples for a moment, and the C library would keep that.
    trim_heap()
    if candidate is not None:
        after = sum(len(compress(sample, candidate)) for sample in held_out)
        if after <= BETTER * before:
            return Trained(candidate, size / max(after, 1))
    return Trained(None, size / max(before, 1))
