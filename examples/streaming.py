"""A stream: an agent passes on what a model says while it says it.

`Agent.stream` gives pieces of the reply, each with its offset. A slow reader gets fewer and longer ones, and nobody who
reads means no streaming at all. Here the line breaks in the middle of the first attempt: the pool makes the call again,
and as long as the new reply says the same, nothing is told twice. Where it differs, `Restart` says from where on what
was read is void.
"""

from __future__ import annotations

import asyncio

from avm import VM, Agent, Request, child, event, on, run
from avm.errors import ProviderConnection
from avm.io import Completion, Delta, ModelRequest, OnEvent, Piece, PlainProvider, Started, encode_fragment

ATTEMPTS = (
    ("Once upon a time ", "there was a ", "process"),
    ("Once upon a time ", "there was an ", "actor", " with a mailbox."),
)
"""What the model says the first time, when the line breaks, and the second time."""


class BrokenLine(PlainProvider):
    """A provider whose line breaks at the end of its first reply."""

    name = "broken"

    def __init__(self) -> None:
        self.asked = 0

    async def complete(self, request: ModelRequest, *, on_event: OnEvent | None = None) -> Completion:
        words = ATTEMPTS[self.asked]
        self.asked += 1
        events: list[Started | Delta] = [Started(), *(Delta(word) for word in words)]
        for each in events:
            await asyncio.sleep(0.05)
            if on_event is not None:
                on_event(each)
        if self.asked == 1:
            raise ProviderConnection("the line broke", self.name, request.model)
        return Completion(encode_fragment({"role": "assistant", "content": "".join(words)}))


@event
class Tell(Request[str]):
    about: str


class Storyteller(Agent):
    @on(Tell)
    async def tell_story(self, wish: Tell) -> str:
        text = ""
        async for piece in self.stream(f"Tell a story about {wish.about}."):
            if isinstance(piece, Piece):
                text += piece.text
                print(f"{piece.offset:3}: {piece.text}")
            else:
                text = text[: piece.offset]
                print(f"{piece.offset:3}: what came from here on is void")
        return text


async def main() -> None:
    async with VM(child("storyteller", Storyteller), provider=BrokenLine(), observers=[]) as vm:
        print(await vm.ask("storyteller", Tell("actors")))


if __name__ == "__main__":
    run(main)
