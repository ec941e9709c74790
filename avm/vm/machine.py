"""VM: wires the parts together, starts the trees, and stops them in reverse.

    root (the kernel's guardian)
     +- system      the VM's own tree: the I/O pool
     +- newsroom    the user's tree
     +- ...         what `vm.spawn` started beside them

The block of `async with VM(tree) as vm:` is the life of the VM. Entering it starts `system`, then the tree;
if either fails, nothing is left (S91). Leaving it stops everything in the reverse order, within
`stop_timeout` seconds, then kills.

Both trees are *permanent* in the sense of S91: one that ends because it gave up, or abnormally, ends the
VM. The task inside the block is then cancelled, as `asyncio.timeout` cancels one, and leaving the block
raises `VMError` with the supervisor's own words. A tree that ends in order (`auto_shutdown`, or stopped by
someone) is no error: `wait_stopped` returns, and the block goes on. SIGINT and SIGTERM, with
`handle_signals` or under `avm.run`, and a KeyboardInterrupt in a handler (S98), cancel the block in the
same way and raise `Interrupted`.

Paths are those of the user: the guardian has none, so the tree's own id is the first part.
"""

from __future__ import annotations

import math
from collections.abc import Coroutine, Iterable
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, TypeVar, overload

from avm.actors import Actor, Observer, Ref, Request
from avm.actors.kernel import Destination, Kernel
from avm.actors.ref import DEFAULT_TIMEOUT
from avm.errors import VMError
from avm.io.providers import Provider
from avm.memory import Roots, Store, parse_size
from avm.router import Router
from avm.scheduler import Clock
from avm.supervision import ChildSpec
from avm.vm.addresses import find
from avm.vm.life import Life
from avm.vm.parts import Parts, check_tree
from avm.vm.status import Activity, VMStatus, activity, tree_status
from avm.vm.watchdog import Runaway

R = TypeVar("R")

STOP_TIMEOUT = 30.0
"""Seconds that stopping in order may take, all in all."""


class VM:
    """One actor system with its store, its I/O pool and a tree. Use it with `async with`, once.

    Args:
        tree: what to run, made by `supervisor()` or `child()`; None for a VM that only has what you `spawn`.
        memory: the ceiling of what the process takes (its RSS), as "2GB" or in bytes: what is idle is compressed, then
            goes to disk, to stay below. The least of it, of a cgroup's limit and of the machine's memory holds. None
            keeps no store.
        home: a directory in which conversations are kept on disk, each commit as it is made; another VM on the same
            home goes on from there. Made if it is not there; one VM has it open at a time. None keeps nothing: what
            RAM has no room for goes to a scratch folder.
        cold: the cold store of a new home: "sqlite" or "lmdb"; None is what the home has, or sqlite.
        provider: who serves the models: a provider, "scripted", "anthropic", or None: what the environment
            says.
        clock: monotonic time; default is the real one (S103).
        random, seed: the source of randomness, or the seed of one.
        observers: take every `Report`. None logs what must not be missed to the logger "avm"; `[]` is
            silence.
        handle_signals: take SIGINT and SIGTERM for as long as the block lasts. `avm.run` does that by itself.
        watchdog: seconds a handler may hold the loop before it is reported (S96); None looks at nothing.
        runaway: what is done about such a handler: "report", or "interrupt": a TimeoutError is raised in it.
        ask_timeout: seconds an `ask` waits by default; None waits for ever.
        stop_timeout: seconds that stopping may take; whoever lives then is killed.

    Raises:
        VMError: an argument that cannot be right.
        SpecError: a tree that cannot be right (S52).
        HomeError, ColdStoreError: on entering, the home cannot be opened.
    """

    def __init__(
        self,
        tree: ChildSpec | None = None,
        *,
        memory: str | int | None = "2GB",
        home: str | Path | None = None,
        cold: str | None = None,
        provider: str | Provider | None = None,
        clock: Clock | None = None,
        random: Random | None = None,
        seed: int | None = None,
        observers: Iterable[Observer] | None = None,
        handle_signals: bool = False,
        watchdog: float | None = 0.5,
        runaway: Runaway = "report",
        ask_timeout: float | None = 60.0,
        stop_timeout: float = STOP_TIMEOUT,
    ) -> None:
        if random is not None and seed is not None:
            raise VMError(f"VM: random and seed={seed} are two sources of randomness; give one of them.")
        _check_seconds("stop_timeout", stop_timeout)
        for name, seconds in (("ask_timeout", ask_timeout), ("watchdog", watchdog)):
            if seconds is not None:
                _check_seconds(name, seconds)
        self._parts = Parts(
            tree=check_tree(tree),
            memory=_bytes(memory),
            home=_home(home, memory),
            cold=_cold(cold),
            provider=provider,
            clock=clock,
            random=random if random is not None else Random(seed),
            observers=None if observers is None else tuple(observers),
            watchdog=watchdog,
            runaway=runaway,
            ask_timeout=ask_timeout,
        )
        self._handle_signals = handle_signals
        self._stop_timeout = stop_timeout
        self._life: Life | None = None
        self._entered = False

    async def __aenter__(self) -> VM:
        if self._entered:
            raise VMError("this VM was entered already; make another with VM(...) for another block.")
        self._entered = True
        self._life = await Life.begin(self._parts, self._stop_timeout, self._handle_signals)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        life = self._running
        try:
            await life.leave(error)
        finally:
            self._life = None

    # Finding and talking.

    def __getitem__(self, key: str) -> Ref:
        """Return the actor of that registered name, path or id.

        Raises:
            NoSuchActor: (a KeyError) nobody, or several; the text names what may have been meant.
        """
        return find(self.kernel, key)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self.kernel.resolve(key) is not None

    def whereis(self, name: str) -> Ref | None:
        """Return who holds a registered name, None if nobody does (S79)."""
        return self.kernel.whereis(name)

    def tell(self, dest: Destination, event: object) -> None:
        """Send an event; never waits, never fails for a missing receiver (S3). From any thread (S101)."""
        self.kernel.tell(dest, event)

    @overload
    def ask(
        self, dest: Destination, request: Request[R], timeout: float | None = ...
    ) -> Coroutine[Any, Any, R]: ...
    @overload
    def ask(
        self, dest: Destination, request: object, timeout: float | None = ...
    ) -> Coroutine[Any, Any, Any]: ...

    def ask(
        self, dest: Destination, request: Any, timeout: float | None = DEFAULT_TIMEOUT
    ) -> Coroutine[Any, Any, Any]:
        """Send a request and wait for its reply; the same as `Actor.ask`.

        Raises:
            NoSuchActor: `dest` is text and means nobody, or several. And all that `Actor.ask` raises.
        """
        where = self[dest] if isinstance(dest, str) else dest
        return self.kernel.ask(where, request, timeout)

    # Starting and ending actors.

    async def spawn(self, cls: type[Actor], *args: Any, **options: Any) -> Ref:
        """Start an actor beside the trees, with nobody to restart it; options as `Actor.spawn`.

        Raises:
            StartError: it did not start.
        """
        return await self.kernel.spawn(cls, *args, **options)

    async def stop(self, dest: Destination, reason: object = None, timeout: float | None = None) -> None:
        """End an actor in order and wait for it (S35). A supervisor may start it again.

        Raises:
            NoProc: it has ended already. AskTimeout: not ended in time; the order stands.
            StopError: it ended abnormally, with another reason.
        """
        where = self[dest] if isinstance(dest, str) else dest
        await self.kernel.stop_actor(where, reason, timeout)

    def kill(self, dest: Destination) -> None:
        """End an actor now, whatever it is doing (S94). Nothing happens if nobody is there."""
        self.kernel.kill(dest)

    async def wait_stopped(self) -> None:
        """Wait until the user's tree has ended, or the VM is told to stop. Leaving the block then says how."""
        await self._running.wait_stopped()

    # Looking at it.

    def status(self, depth: int | None = None) -> VMStatus:
        """Look at everything at this moment.

        Args:
            depth: levels of the tree that are listed; deeper actors are only counted. None lists all.
        """
        life = self._running
        kernel, doing = life.kernel, activity(life.kernel)
        counts = kernel.statistics()
        return VMStatus(
            uptime=kernel.now() - life.began,
            actors=counts.actors,
            active=doing.active,
            waiting=doing.waiting,
            mailbox=doing.mailbox,
            deepest=doing.deepest,
            restarts=counts.restarts,
            dead_letters=counts.dead_letters,
            tree=tree_status(kernel, depth),
            store=life.store.statistics() if life.store is not None else None,
            io=life.pool_statistics(),
            router=self.router.statistics(),
            kernel=counts,
        )

    def activity(self) -> Activity:
        """Count what the actors do, without the tree."""
        return activity(self.kernel)

    @property
    def kernel(self) -> Kernel:
        """The kernel: observers, taps, groups.

        Raises:
            VMError: outside the block.
        """
        return self._running.kernel

    @property
    def store(self) -> Store | None:
        """The store; None with `memory=None`."""
        return self._running.store

    @property
    def router(self) -> Router:
        """The router: topics, patterns, taps, events as bytes."""
        router: Router = self.kernel.service("router")
        return router

    @property
    def roots(self) -> Roots:
        """The committed conversations of all agents, by path."""
        roots: Roots = self.kernel.service("roots")
        return roots

    @property
    def _running(self) -> Life:
        if self._life is None:
            when = "has ended" if self._entered else "has not started"
            raise VMError(f"this VM {when}; use it inside its block: async with VM(tree) as vm: ...")
        return self._life


def _bytes(memory: str | int | None) -> int | None:
    if memory is None:
        return None
    try:
        return parse_size(memory, floor=0)
    except ValueError as error:
        raise VMError(f"VM: memory must be a size, as '2GB' or in bytes, or None; {error}") from None


def _home(home: str | Path | None, memory: str | int | None) -> Path | None:
    if home is None:
        return None
    if not isinstance(home, (str, Path)) or not str(home):
        raise VMError(f"VM: home must be the path of a directory, got {home!r}.")
    if memory is None:
        raise VMError(f"VM: home={str(home)!r} needs a store; leave memory=None out.")
    return Path(home)


def _cold(cold: str | None) -> str | None:
    if cold not in (None, "sqlite", "lmdb"):
        raise VMError(f"VM: cold must be 'sqlite' or 'lmdb', got {cold!r}.")
    return cold


def _check_seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise VMError(f"VM: {name} must be a number of seconds above 0, got {value!r}.")
