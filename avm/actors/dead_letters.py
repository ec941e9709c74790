"""Dead letters: events that nobody took. Counted by reason, reported if anyone listens, and the ask in one fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avm.actors.hooks import DeadLetter
from avm.errors import NoProc

if TYPE_CHECKING:
    from avm.actors.cell import Letter
    from avm.actors.kernel import Kernel


def undelivered(kernel: Kernel, why: str, dest: str, letter: Letter) -> None:
    """Count a dead letter; an ask in it fails.

    Args:
        why: dead, nobody, ended, no_handler, mailbox_full, dropped or no_memory.
        dest: where it was to go, as text.
    """
    event, sender, reply, _ = letter
    kernel.dead_letters[why] += 1
    if reply is not None and not reply.done():
        reply.set_exception(NoProc(f"{dest} has ended."))
    if kernel.observers:
        sender_text = sender.pid_text if sender is not None else None
        kernel.emit(DeadLetter(at=kernel.now(), why=why, dest=dest, sender=sender_text, event=event))
