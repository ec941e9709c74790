"""What the laws share: a puppet that does what a program says, and writes down what happens to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from avm.actors import Actor, Exit, Kill, Killed, Normal, Pid, Request, Shutdown, Timeout, event, on
from avm.actors.signals import Down
from avm.supervision import ChildSpec, child, supervisor
from avm.testing import simulate
from avm.testing.simulate import Simulation

REASONS: dict[str, object] = {
    "normal": Normal(),
    "shutdown": Shutdown(),
    "oops": "oops",
    "killed": Killed(),
    "kill": Kill(),
}


@event(tag="laws.Note")
class Note:
    n: int


@event(tag="laws.Do")
class Do:
    """A program: the steps a puppet takes in one handler, each a word and its arguments."""

    steps: tuple[tuple[Any, ...], ...]


@event(tag="laws.Query")
class Query(Request[Any]):
    """An ask; how it is answered is the receiver's affair."""

    how: str
    seconds: float = 0.0


class Puppet(Actor):
    """Takes the steps of a program; `log` gets (id, what, ...) for everything that happens to it."""

    def __init__(self, log: list[tuple[Any, ...]], trap: bool = False) -> None:
        self.log = log
        self.trap_exit = trap
        self.watches: dict[str, list[Any]] = {}

    def write(self, *line: Any) -> None:
        self.log.append((self.ref.id, *line))

    @on(Note)
    def note(self, note: Note) -> None:
        self.write("note", self.sender.ref.id if self.sender is not None else "", note.n)

    @on(Exit)
    def hear(self, exit: Exit) -> None:
        self.write("exit", exit.pid.ref.id if exit.pid is not None else "", exit.reason)

    @on(Down)
    def down(self, down: Down) -> None:
        whose = down.pid.ref.id if down.pid is not None else down.name
        self.write("down", whose, down.reason)

    @on(Timeout)
    def timeout(self, _: Timeout) -> None:
        self.write("timeout")

    def stopping(self, reason: object) -> None:
        self.write("stopping", reason)

    @on(Do)
    async def do(self, program: Do) -> None:
        for word, *arguments in program.steps:
            result = getattr(self, f"do_{word}")(*arguments)
            if result is not None:
                await result

    def do_tell(self, dest: Any, n: int) -> None:
        self.tell(dest, Note(n))

    def do_sleep(self, seconds: float) -> Any:
        return asyncio.sleep(seconds)

    def do_exit(self, dest: Any, reason: str) -> None:
        self.exit(dest, REASONS[reason])

    def do_link(self, dest: Any) -> None:
        self.link(dest)

    def do_unlink(self, dest: Any) -> None:
        self.unlink(dest)

    def do_monitor(self, dest: Any) -> None:
        self.watches.setdefault(str(dest), []).append(self.monitor(dest))

    def do_demonitor(self, dest: Any) -> None:
        watches = self.watches.get(str(dest))
        if watches:
            self.demonitor(watches.pop(), flush=True)

    def do_stop(self, reason: str) -> None:
        self.stop(REASONS[reason])

    def do_crash(self) -> None:
        raise RuntimeError("crash")

    def do_next(self, n: int) -> None:
        self.continue_with(Note(n))

    def do_later(self, seconds: float, n: int) -> None:
        self.send_after(seconds, self.pid, Note(n))

    def do_join(self, group: str) -> None:
        self.join(group)

    def do_register(self, name: str) -> None:
        self.register(name)


def stage(log: list[tuple[Any, ...]], ids: Sequence[str], traps: Sequence[bool] = ()) -> ChildSpec:
    """A tree of puppets that are not started again; paths are stage/<id>."""
    trap = dict(zip(ids, traps, strict=False))
    children = [child(id, Puppet, log, trap.get(id, False), restart="temporary") for id in ids]
    return supervisor("stage", children=children)


def play(tree: ChildSpec, choices: Any, **options: Any) -> Simulation:
    """A simulation for a law: small, and without a store unless told otherwise."""
    options.setdefault("memory", None)
    return simulate(tree, choices=choices, **options)


def lines(log: Sequence[tuple[Any, ...]], id: str, what: str) -> list[tuple[Any, ...]]:
    """What a puppet wrote of one kind, without the id and the kind."""
    return [line[2:] for line in log if line[:2] == (id, what)]


def outcome(sim: Simulation, dest: str, request: object, timeout: float | None = 60.0) -> Any:
    """The reply of an ask, or the name of its error."""
    try:
        return sim.ask(dest, request, timeout)
    except Exception as error:
        return type(error).__name__


def pid_of(sim: Simulation, dest: str) -> Pid:
    return sim.cell(dest).pid


Steps = Callable[..., Any]
