"""Looking at a simulation: who lives and does what, what each was told, what crashed, and the timeline of it all."""

from __future__ import annotations

from avm.actors import Pid, Ref, Report
from avm.actors.cell import Cell
from avm.actors.hooks import CrashReport
from avm.actors.kernel import Destination, Kernel
from avm.errors import SimulationError
from avm.supervision import ChildSpec
from avm.testing.trace import Entry, Trace
from avm.testing.world import World
from avm.vm.parts import APP, SYSTEM

LINES = 40
"""Lines of a timeline, unless told otherwise."""

HEAD = f"{'seconds':>12}  {'decision':<12} {'actor':<24} what"


class Onlooker:
    """The side of a simulation that only looks. Paths may leave out the id of the tree."""

    def __init__(self, tree: ChildSpec | None, world: World) -> None:
        self.tree = tree
        self.world = world

    @property
    def kernel(self) -> Kernel:
        """The kernel of the VM; also after its end.

        Raises:
            SimulationError: before the block.
        """
        if self.world.kernel is None:
            raise SimulationError(
                "this simulation has not started; use it in a block: with simulate(tree) as sim: ..."
            )
        return self.world.kernel

    @property
    def now(self) -> float:
        """Virtual seconds since the start."""
        return self.world.loop.time()

    @property
    def trace(self) -> Trace:
        """What happened so far."""
        return self.world.trace

    @property
    def reports(self) -> list[Report]:
        """What the VM reported so far."""
        return self.world.reports

    def starts(self) -> dict[str, int]:
        """Count how often each actor below the tree was started, by its path below the tree; failures do not count.

        Without a tree these are all actors but the VM's own.
        """
        counts = self.world.start_counts.items()
        return {path.removeprefix(self._prefix): n for path, n in counts if self._is_users(path)}

    def statuses(self) -> dict[str, str]:
        """Say for each living actor below the tree what it does now, by its path below the tree."""
        found = {cell.path: cell for cell in self.kernel.cells() if self._is_users(cell.path)}
        return {path.removeprefix(self._prefix): self._doing(found[path]) for path in sorted(found)}

    def messages(self, dest: Destination) -> list[object]:
        """Return the events that whoever lives or lived at a place has begun to handle, oldest first."""
        return [entry.what for entry in self.trace.of(self._path(dest), "handle")]

    def crashes(self, dest: Destination | None = None) -> list[CrashReport]:
        """Return the crash reports, of one place or all."""
        found = [report for report in self.reports if isinstance(report, CrashReport)]
        if dest is None:
            return found
        path = self._path(dest)
        return [report for report in found if report.path == path]

    def timeline(self, lines: int | None = LINES, *, system: bool = False, sends: bool = False) -> str:
        """Put the end of the trace in words: virtual time, decision, actor, what happened.

        Args:
            lines: how many; None is all.
            system: with the VM's own actors. sends: with what is sent, not only what is handled.
        """
        shown = [
            entry
            for entry in self.trace
            if (sends or entry.kind != "send") and (system or not _is_own(entry))
        ]
        hidden = 0 if lines is None else max(0, len(shown) - lines)
        text = [f"{'':12}  ... {hidden} lines before"] if hidden else []
        return "\n".join([HEAD, *text, *map(str, shown[hidden:])])

    def cell(self, dest: Destination) -> Cell:
        """Return the living cell, of a ref or pid the last one.

        Raises:
            NoProc: nobody lives there.
        """
        where = self._where(dest)
        if isinstance(where, (Ref, Pid)):
            return where.cell
        found = self.kernel.resolve(where)
        if found is None:
            raise self.kernel.nobody(where)
        return found

    def ref(self, dest: Destination) -> Ref:
        """Return the ref of the actor a destination means."""
        return self.cell(dest).ref

    def _is_users(self, path: str) -> bool:
        return path.startswith(self._prefix) and not _is_below(path, SYSTEM)

    @property
    def _prefix(self) -> str:
        return f"{self._top}/" if self._top else ""

    @property
    def _top(self) -> str:
        if self.tree is None:
            return ""
        return self.tree.id if self.tree.kind == "supervisor" else APP

    # A path may leave out the id of the tree.
    def _where(self, dest: Destination) -> Destination:
        if isinstance(dest, str) and self.kernel.resolve(dest) is None:
            below = f"{self._top}/{dest}"
            if self.kernel.find_cell(below) is not None:
                return below
        return dest

    # The path a destination means, of one that has ended too.
    def _path(self, dest: Destination) -> str:
        where = self._where(dest)
        if isinstance(where, (Ref, Pid)):
            return where.cell.path
        found = self.kernel.resolve(where)
        if found is not None:
            return found.path
        known = self.world.start_counts
        for path in (where, f"{self._top}/{where}"):
            if path in known:
                return str(path)
        raise self.kernel.nobody(where)

    def _doing(self, cell: Cell) -> str:
        state = self.kernel.state_of(cell)
        wait = self.kernel.wait_of(cell)
        return f"{state} for {wait[0]}" if wait is not None else state

    def _busy_text(self) -> str:
        busy = [
            f"{cell.path} is {self._doing(cell)}"
            for cell in self.kernel.cells()
            if self.kernel.state_of(cell) not in ("idle", "suspended") and not _is_below(cell.path, SYSTEM)
        ]
        return "; ".join(busy[:10]) if busy else "no actor has anything to do"


def _is_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")


def _is_own(entry: Entry) -> bool:
    if entry.kind == "report":
        return _is_below(getattr(entry.what, "supervisor", ""), SYSTEM)
    return _is_below(entry.path, SYSTEM)
