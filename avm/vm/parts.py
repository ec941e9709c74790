"""What a VM is made of: the arguments, checked, and the functions that make the parts from them."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random
from typing import Any

import attrs

from avm.actors import Observer
from avm.actors.kernel import Kernel
from avm.errors import SpecError
from avm.io.pool import io_tree
from avm.io.providers import Provider, choose_provider
from avm.memory import Ceiling, Store, memory_limit
from avm.scheduler import Clock
from avm.supervision import ChildSpec, child, supervisor, validate
from avm.vm.keeper import StoreKeeper
from avm.vm.last_resort import LastResort
from avm.vm.watchdog import Runaway

SYSTEM = "system"
"""The id of the VM's own tree."""

APP = "app"
"""The id of the supervisor that a tree of a single worker is put under."""


@attrs.frozen(slots=True, kw_only=True)
class Parts:
    """The arguments of a VM, as they are used at its start."""

    tree: ChildSpec | None
    memory: int | None
    home: Path | None
    cold: str | None
    provider: str | Provider | None
    clock: Clock | None
    random: Random
    observers: tuple[Observer, ...] | None
    watchdog: float | None
    runaway: Runaway
    ask_timeout: float | None

    def make_store(self) -> Store | None:
        """Make the store, None without memory. With a home it is opened; else it spills to a scratch folder.

        Raises:
            HomeError, ColdStoreError: the home cannot be opened.
        """
        if self.memory is None:
            return None
        if self.home is not None:
            return Store.open(self.home, self.memory, cold=self.cold)
        return Store(self.memory, spills=True)

    def make_kernel(self, store: Store | None) -> Kernel:
        """Make the kernel on the running loop."""
        return Kernel(**self.kernel_arguments(store))

    def kernel_arguments(self, store: Store | None) -> dict[str, Any]:
        """Return what the kernel is made with."""
        return {
            "clock": self.clock,
            "random": self.random,
            "store": store,
            "services": {
                "roots": (store if store is not None else Store()).roots,
                # For what outlives the VM; a clock of the user's own is all the time there is.
                "wall": time.time if self.clock is None else self.clock.now,
            },
            "observers": (LastResort(),) if self.observers is None else self.observers,
            "ask_timeout": self.ask_timeout,
        }

    def system_tree(self, store: Store | None) -> ChildSpec:
        """Describe the VM's own tree."""
        children = [io_tree(choose_provider(self.provider))]
        if store is not None:
            assert self.memory is not None
            ceiling = Ceiling(store, self.memory, machine=memory_limit())
            children.insert(0, child("store", StoreKeeper, store, ceiling))
        return supervisor(SYSTEM, strategy="one_for_one", max_restarts=3, max_seconds=60.0, children=children)


def check_tree(tree: object) -> ChildSpec | None:
    """Return the tree to start; a single worker gets a supervisor above it, which its restart type needs.

    Raises:
        SpecError: it is no tree, or one that cannot be right (S52).
    """
    if tree is None:
        return None
    validate(tree)  # type: ignore[arg-type]
    assert isinstance(tree, ChildSpec)
    if tree.id == SYSTEM:
        raise SpecError(f"a tree cannot be called {SYSTEM!r}, which is the VM's own; give it another id.")
    return tree if tree.kind == "supervisor" else supervisor(APP, children=[tree])
