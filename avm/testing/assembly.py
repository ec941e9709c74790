"""The VM of a simulation: the real one, on a simulated kernel, clock and loop, without watchdog and without threads."""

from __future__ import annotations

from typing import Any

import attrs

from avm.actors.kernel import Kernel
from avm.errors import SimulationError
from avm.memory import Store
from avm.supervision import ChildSpec, SupervisorSpec
from avm.testing.kernel import SimulatedKernel
from avm.testing.loop import SimulatedClock
from avm.testing.outside import SimulatedKeeper
from avm.testing.world import World
from avm.vm.keeper import StoreKeeper
from avm.vm.machine import VM
from avm.vm.parts import Parts


@attrs.frozen(slots=True, kw_only=True)
class SimulatedParts(Parts):
    """The arguments of a VM whose kernel is simulated."""

    world: World

    def make_store(self) -> Store | None:
        """Make a store that keeps to RAM: what is on disk is written by a thread.

        Raises:
            SimulationError: a home was asked for.
        """
        if self.home is not None:
            raise SimulationError(f"a simulation has no disk, got home={str(self.home)!r}; leave it out.")
        return None if self.memory is None else Store(self.memory)

    def make_kernel(self, store: Store | None) -> Kernel:
        """Make the kernel of the simulation, with what the VM gives to any."""
        return SimulatedKernel(self.world, **self.kernel_arguments(store))

    def system_tree(self, store: Store | None) -> ChildSpec:
        """Describe the VM's own tree, without a thread."""
        return _without_threads(Parts.system_tree(self, store))


def _without_threads(tree: ChildSpec) -> ChildSpec:
    if isinstance(tree, SupervisorSpec):
        return attrs.evolve(tree, children=tuple(_without_threads(spec) for spec in tree.children))
    return attrs.evolve(tree, actor=SimulatedKeeper) if tree.actor is StoreKeeper else tree


class SimulatedVM(VM):
    """A VM with those parts."""

    def __init__(self, world: World, tree: ChildSpec | None, **options: Any) -> None:
        super().__init__(tree, clock=SimulatedClock(world.loop), watchdog=None, **options)
        parts = self._parts
        given = {field.name: getattr(parts, field.name) for field in attrs.fields(Parts)}
        self._parts = SimulatedParts(world=world, **given)
