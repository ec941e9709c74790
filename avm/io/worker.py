"""ModelWorker: an actor that makes one model call at a time.

What the provider reports as a `ProviderError` is an answer; all else is a crash of the worker, which is one call's
error and no more. A call that nobody waits for any more is stopped by killing its worker.
"""

from __future__ import annotations

from avm.actors.actor import Actor, on
from avm.actors.ref import Ref
from avm.errors import ProviderError
from avm.io.dispatch import Begun, Done, Work
from avm.io.providers.provider import OnEvent, Provider, Started, StreamEvent
from avm.io.request import Timings


class ModelWorker(Actor):
    """Makes the calls its gate hands it.

    Args:
        gate: who hands them, and hears how they end.
        provider: who serves them.
    """

    def __init__(self, gate: Ref, provider: Provider) -> None:
        self.gate = gate
        self.provider = provider
        self.first: float | None = None

    @on(Work)
    async def run(self, work: Work) -> None:
        """Make one call and tell the gate how it ended."""
        started = self.now()
        self.first = None
        try:
            if work.stream is None and not work.reports_start:
                completion = await self.provider.complete(work.request)
            else:
                completion = await self.provider.complete(work.request, on_event=self._follow(work))
        except ProviderError as error:
            self.tell(self.gate, Done(work.serial, error))
            return
        timings = Timings(work.asked, started, self.now(), self.first)
        self.tell(self.gate, Done(work.serial, completion.timed(timings)))

    def _follow(self, work: Work) -> OnEvent:
        stream = work.stream
        if stream is not None:
            stream.attempt()

        def follow(event: StreamEvent) -> None:
            if self.first is None:
                self.first = self.now()
                if work.reports_start:
                    limits = event.limits if type(event) is Started else None
                    self.tell(self.gate, Begun(work.serial, limits))
            if stream is not None and type(event) is not Started:
                stream.push(event)

        return follow
