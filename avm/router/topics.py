"""Topics: publish and subscribe, on top of the kernel's groups.

A topic is text of words with dots between them, `news.sport.tennis`. Its subscribers are the members of the group of
that name, so `self.join(topic)` and `self.publish(topic, event)` are the same thing without patterns. A subscription
may also be a pattern: `*` stands for one word, `#` for any number of words, none included. Its subscribers are the
members of the group named like the pattern, and an index of words finds the patterns of a topic.

Groups forget an actor at its end (S32), so subscriptions need no cleaning up, and a pattern whose group is empty is
dropped from the index when it is next met.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs

from avm.actors.event import event
from avm.actors.ref import Pid
from avm.errors import NoProc, SpecError

if TYPE_CHECKING:
    from avm.actors.cell import Cell
    from avm.actors.kernel import Destination, Kernel
    from avm.actors.registry import GroupChange

ONE = "*"
ANY = "#"

CACHED_TOPICS = 4096


@attrs.frozen(slots=True)
class Watch:
    """Names one watch of a group; what `Topics.watch` returns."""

    group: str
    serial: int


@event(tag="avm.GroupChanged")
class GroupChanged:
    """A watched group got a member, or lost one (S84)."""

    watch: Watch
    pid: Pid
    joined: bool


class Topics:
    """Who gets what is published."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._groups = kernel.groups
        self._root = _Node()
        self._patterns: dict[str, None] = {}
        # Topic to the patterns that match it; forgotten whenever the set of patterns changes.
        self._found: dict[str, tuple[str, ...]] = {}
        self._watchers: dict[int, Cell] = {}

    def subscribe(self, topic: str, dest: Destination | None = None) -> None:
        """Add a subscription to a topic or a pattern; n subscriptions are n copies (S82).

        Args:
            dest: who subscribes; the calling actor unless given. The subscription is this incarnation's.

        Raises:
            SpecError: no topic and no pattern. NoProc: nobody is at `dest`.
        """
        words = _split(topic)
        cell = self._cell(dest)
        if is_pattern(topic) and topic not in self._patterns:
            self._patterns[topic] = None
            self._root.add(words, topic)
            self._found.clear()
        self._groups.join(topic, cell)

    def unsubscribe(self, topic: str, dest: Destination | None = None) -> None:
        """Remove one subscription.

        Raises:
            NotJoined: there is none.
        """
        self._groups.leave(topic, self._cell(dest))

    def audience(self, topic: str) -> tuple[Cell, ...]:
        """Return who gets an event that is published to a topic now, once for each subscription (S83)."""
        members = self._groups.members(topic)
        if not self._patterns:
            return members
        patterns = self._found.get(topic)
        if patterns is None:
            patterns = self._find(topic)
        if not patterns:
            return members
        found = list(members)
        for pattern in patterns:
            # Publishing to the name of a pattern is publishing to its group; not twice.
            if pattern != topic:
                subscribers = self._groups.members(pattern)
                if not subscribers:
                    self._forget(pattern)
                found.extend(subscribers)
        return tuple(found)

    def watch(self, group: str, dest: Destination | None = None) -> tuple[Watch, tuple[Pid, ...]]:
        """Watch a group: return its members now; each later change is one `GroupChanged` to `dest` (S84).

        Args:
            group: the name of a group, a topic or a pattern as it was subscribed to.
            dest: who is told; the calling actor unless given. The watch ends with it.
        """
        watcher = self._cell(dest)

        def changed(change: GroupChange) -> None:
            if watcher.is_alive():
                self._kernel.send(None, watcher.pid, GroupChanged(watch, change.cell.pid, change.joined))
            else:
                self._end(watch)

        serial, members = self._groups.watch(group, changed)
        watch = Watch(group, serial)
        self._watchers[serial] = watcher
        return watch, tuple(cell.pid for cell in members)

    def unwatch(self, watch: Watch) -> bool:
        """End a watch; no `GroupChanged` of it comes after this, also none that waits (S84). True if it was active."""
        watcher = self._watchers.get(watch.serial)
        self._end(watch)
        if watcher is None or not watcher.is_alive():
            return False
        watcher.drop(lambda waiting: isinstance(waiting, GroupChanged) and waiting.watch == watch)
        return True

    def patterns(self) -> tuple[str, ...]:
        """Return the patterns that have subscribers."""
        for pattern in [p for p in self._patterns if not self._groups.members(p)]:
            self._forget(pattern)
        return tuple(self._patterns)

    def _end(self, watch: Watch) -> None:
        self._groups.unwatch(watch.group, watch.serial)
        self._watchers.pop(watch.serial, None)

    def _find(self, topic: str) -> tuple[str, ...]:
        found: dict[str, None] = {}
        self._root.match(topic.split("."), 0, found)
        # In the order of subscription, whatever the order in the index.
        patterns = tuple(p for p in self._patterns if p in found) if len(found) > 1 else tuple(found)
        if len(self._found) >= CACHED_TOPICS:
            self._found.clear()
        self._found[topic] = patterns
        return patterns

    def _forget(self, pattern: str) -> None:
        del self._patterns[pattern]
        self._root.remove(pattern.split("."))
        self._found.clear()

    def _cell(self, dest: Destination | None) -> Cell:
        kernel = self._kernel
        cell = kernel.current() if dest is None else kernel.resolve(dest)
        if cell is None:
            if dest is not None:
                raise kernel.nobody(dest)
            raise NoProc("no actor is running here; say who is meant with dest=.")
        return cell


class _Node:
    """What comes after the words so far, in the index of patterns."""

    __slots__ = ("next", "pattern")

    def __init__(self) -> None:
        self.next: dict[str, _Node] = {}
        self.pattern: str | None = None

    def add(self, words: Iterable[str], pattern: str) -> None:
        node = self
        for word in words:
            node = node.next.setdefault(word, _Node())
        node.pattern = pattern

    def remove(self, words: list[str]) -> None:
        path = [self]
        for word in words:
            path.append(path[-1].next[word])
        path[-1].pattern = None
        for word, above, below in zip(reversed(words), reversed(path[:-1]), reversed(path[1:]), strict=True):
            if below.next or below.pattern is not None:
                return
            del above.next[word]

    def match(self, words: list[str], at: int, found: dict[str, None]) -> None:
        """Collect the patterns that match `words` from `at` on."""
        rest = self.next.get(ANY)
        if rest is not None:
            for later in range(at, len(words) + 1):
                rest.match(words, later, found)
        if at == len(words):
            if self.pattern is not None:
                found[self.pattern] = None
            return
        for word in (words[at], ONE):
            below = self.next.get(word)
            if below is not None and (word != ANY or below is not rest):
                below.match(words, at + 1, found)


def is_pattern(topic: str) -> bool:
    """Tell whether a subscription is a pattern."""
    return ONE in topic or ANY in topic


def _split(topic: str) -> list[str]:
    words = topic.split(".") if isinstance(topic, str) else [""]
    if not all(words) or any(len(word) > 1 and is_pattern(word) for word in words):
        raise SpecError(
            f"a topic is words with dots between them, in which * stands for one word and # for any number: "
            f"'news.sport', 'news.*', 'news.#'; got {topic!r}."
        )
    return words


__all__ = ["GroupChanged", "Topics", "Watch", "is_pattern"]
