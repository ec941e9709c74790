"""A chat with tools: the model asks for them, the I/O pool runs them, the model reads what came out.

The scripted model below asks for a tool when it sees a question it cannot answer by itself, and for one with wrong
arguments too: the error goes back to it as the tool's result, and the agent lives on.
"""

from __future__ import annotations

from typing import Any

from avm import VM, Agent, child, run, tool
from avm.io import ModelRequest, ScriptedProvider


@tool(timeout=5)
async def count_words(text: str) -> int:
    """Count the words of a text."""
    return len(text.split())


@tool
def convert(amount: float, rate: float = 1.1) -> str:
    """Convert an amount of money.

    Args:
        amount: in euros.
        rate: dollars for one euro.
    """
    return f"{amount * rate:.2f} dollars"


class Clerk(Agent):
    system = "You are a clerk. Use your tools; do not guess."
    tools = (count_words, convert)


def model(request: ModelRequest) -> dict[str, Any] | str:
    """What the scripted provider says: the result of a tool, or a call of the tool that fits the question."""
    last = list(request.history())[-1]
    if last["role"] == "tool":
        return (
            f"I cannot tell. {last['content']:.70}..." if "is_error" in last else f"It is {last['content']}."
        )
    if "euros" in last["content"]:
        amount = next((word for word in last["content"].split() if word.isdigit()), '"many"')
        return call("convert", f'{{"amount": {amount}}}')
    return call("count_words", f'{{"text": "{last["content"]}"}}')


def call(name: str, arguments: str) -> dict[str, Any]:
    wanted = {"id": "call-1", "name": name, "arguments": arguments}
    return {"role": "assistant", "content": "", "tool_calls": [wanted]}


async def main() -> None:
    async with VM(child("clerk", Clerk), provider=ScriptedProvider(model)) as vm:
        for question in ("How long is this question of mine?", "What are 20 euros?", "What are many euros?"):
            print(f"> {question}")
            print(await vm.ask("clerk", question))


if __name__ == "__main__":
    run(main)
