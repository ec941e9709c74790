"""The director: who is handed what, and what becomes of it when an agent crashes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, cast

from avm.actors import Actor, on
from avm.actors.kernel import Kernel
from avm.agents.replay import Play, PlayResult
from avm.cli.director import Begin, Director, DirectorStatistics
from avm.cli.player import DIRECTOR, Played, Ready
from avm.cli.workload import KeptFile
from avm.cli.writer import WRITER, WriteFailed, Writer
from avm.io import Recordings
from avm.memory import Conversation, Store
from avm.supervision import child, start_tree, supervisor
from tests.cli.recorded import lines_of, recordings, records

Run = Callable[[Coroutine[Any, Any, Any]], Any]


class Script:
    """What the fake players do, and have done."""

    def __init__(self, found: Recordings, crashes: int = 0, spoiled: tuple[int, ...] = ()) -> None:
        self.recordings = found
        self.crashes = crashes
        self.spoiled = spoiled
        self.played: list[tuple[str, int]] = []


class FakePlayer(Actor):
    """Plays at once: keeps the recorded messages, or crashes."""

    def __init__(self, script: Script) -> None:
        self.script = script

    def starting(self) -> None:
        """Say that it is up."""
        self.tell(DIRECTOR, Ready())

    @on(Play)
    def play(self, play: Play) -> None:
        """Play."""
        script = self.script
        script.played.append((self.path, play.index))
        if script.crashes:
            script.crashes -= 1
            raise RuntimeError("on purpose")
        recording = script.recordings[play.index]
        conversation = Conversation(Store())
        for position in range(len(recording)):
            message = recording.message(position)
            if play.index in script.spoiled:
                message["content"] += "!"
            conversation = conversation.append(message)
        self.tell(DIRECTOR, Played(PlayResult(play.index, recording.key, conversation, 1, 1, 0, 0)))


async def direct(
    script: Script, target: int | None, *, agents: int = 1, out: KeptFile | None = None
) -> DirectorStatistics:
    """Run a director with fake players until it is done."""
    async with Kernel() as kernel:
        players = [child(f"agent-{n}", FakePlayer, script) for n in range(agents)]
        below = [child("writer", Writer, out, name=WRITER)] if out is not None else []
        director = child("director", Director, script.recordings, target, out, name=DIRECTOR)
        tree = supervisor("job", max_restarts=9, children=[*below, director, *players])
        await start_tree(kernel, tree)
        assert script.played == []
        await kernel.ask(DIRECTOR, Begin())
        await kernel.idle()
        found = kernel.names.whereis(DIRECTOR)
        assert found is not None
        return cast(Director, found.actor).statistics()


def test_every_conversation_is_handed_out_once_in_order(run: Run) -> None:
    script = Script(recordings(5))

    progress = run(direct(script, 5))

    assert [index for _, index in script.played] == [0, 1, 2, 3, 4]
    assert (progress.handed, progress.conversations, progress.different) == (5, 5, 0)


def test_more_conversations_than_are_recorded_go_round(run: Run) -> None:
    script = Script(recordings(2))

    run(direct(script, 5))

    assert [index for _, index in script.played] == [0, 1, 0, 1, 0]


def test_agents_share_the_conversations_and_those_too_many_stay_idle(run: Run) -> None:
    script = Script(recordings(3))

    progress = run(direct(script, 3, agents=5))

    assert sorted(index for _, index in script.played) == [0, 1, 2]
    assert len({path for path, _ in script.played}) == 3
    assert progress.handed == 3


def test_an_agent_that_crashed_gets_its_conversation_again(run: Run) -> None:
    script = Script(recordings(3), crashes=2)

    progress = run(direct(script, 3))

    assert [index for _, index in script.played] == [0, 0, 0, 1, 2]
    assert (progress.conversations, progress.resumed, progress.different) == (3, 2, 0)


def test_a_conversation_that_is_not_as_recorded_is_counted(run: Run) -> None:
    script = Script(recordings(4), spoiled=(1, 3))

    progress = run(direct(script, 4))

    assert (progress.conversations, progress.different, progress.first_different) == (4, 2, "talk-1")


def test_what_was_kept_is_written(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "kept.jsonl"

    with KeptFile(path) as out:
        run(direct(Script(recordings(4)), 4, agents=2, out=out))

    assert path.read_bytes() == lines_of(records(4))


def test_a_file_that_cannot_be_written_ends_it(run: Run) -> None:
    async def body() -> DirectorStatistics:
        script = Script(recordings(1))
        async with Kernel() as kernel:
            director = await kernel.spawn(Director, script.recordings, None, None, name=DIRECTOR)
            waiting = asyncio.create_task(kernel.ask(director, Begin(), timeout=None))
            await kernel.idle()
            kernel.tell(director, WriteFailed("the disk is full"))
            await waiting
            await kernel.spawn(FakePlayer, script)
            await kernel.idle()
            assert script.played == []
            return cast(Director, director.cell.actor).statistics()

    assert run(body()).failure == "the disk is full"
