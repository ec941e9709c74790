"""One agent: it answers what it is asked, remembers the conversation, and takes an event of its own.

It runs without a key: the scripted provider stands in for the model. With ANTHROPIC_API_KEY set, leave `provider` out
and Claude answers.
"""

from __future__ import annotations

from avm import VM, Agent, Request, child, event, on, run
from avm.io import ModelRequest, ScriptedProvider


@event
class Greeting:
    text: str


@event
class Introduce(Request[Greeting]):
    name: str


class Greeter(Agent):
    system = "You greet people in one short sentence."

    def __init__(self) -> None:
        self.met: list[str] = []

    @on(Introduce)
    async def introduce(self, who: Introduce) -> Greeting:
        self.met.append(who.name)
        return Greeting(await self.chat(f"This is {who.name}. Say hello."))


def model(request: ModelRequest) -> str:
    """What the scripted provider says: it reads the conversation, as a model would."""
    said = [m["content"] for m in request.history() if m["role"] == "user"]
    return f"Nice to hear from you. You have said {len(said)} things, first of all: {said[0]!r}"


async def main() -> None:
    async with VM(child("greeter", Greeter), provider=ScriptedProvider(model)) as vm:
        greeting = await vm.ask("greeter", Introduce("Ada"))
        print(greeting.text)
        print(await vm.ask("greeter", "Hello again!"))


if __name__ == "__main__":
    run(main)
