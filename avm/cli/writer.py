"""The writer: brings finished conversations into the file of `--out` while the job runs, one after another.

The director puts them there in whatever order they come back; the writer takes those whose turn it is. It compresses
and writes in a thread, so that a run of long ones holds up nobody.
"""

from __future__ import annotations

from avm.actors.actor import Actor, on
from avm.actors.event import event
from avm.cli.player import DIRECTOR
from avm.cli.workload import KeptFile
from avm.errors import WorkloadError

WRITER = "avm.writer"
"""The name the writer is registered under."""


@event(tag="avm.job.WriteOn")
class WriteOn:
    """There may be something to write."""


@event(tag="avm.job.WriteFailed")
class WriteFailed:
    """The file cannot be written any more; from the writer to the director."""

    why: str


class Writer(Actor):
    """Writes what can be written.

    Args:
        out: the file. Whoever made it closes it, which writes what is left.
    """

    priority = "background"

    def __init__(self, out: KeptFile) -> None:
        self._out = out
        self._failed = False

    @on(WriteOn)
    async def write_on(self, on: WriteOn) -> None:
        """Write all conversations whose turn it is."""
        try:
            while not self._failed and self._out.is_next_here():
                line = self._out.take_next()
                with self.protected():
                    await self.run_blocking(self._out.write, line)
        except WorkloadError as error:
            self._failed = True
            self.tell(DIRECTOR, WriteFailed(str(error)))
