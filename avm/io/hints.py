"""Hints: where the pool has the provider cache a prompt, so that the caller need not know.

A breakpoint after the system prompt serves all agents with it; one where histories part serves forks; and one at the
end serves the conversation's own next call, so it is placed only where one is likely: what is written to the cache
costs 1.25 times what is sent without it.
"""

from __future__ import annotations

from avm.io.call import Call
from avm.io.prefix import PrefixTable
from avm.io.request import Hints


def make_hints(call: Call, prefixes: PrefixTable | None, min_tokens: int, slot: int | None) -> Hints:
    """Return the hints for a call whose prompt's chain is known; `slot` is the local server's slot for it."""
    if prefixes is None:
        return Hints(slot=slot)
    request, prompt = call.request, call.prompt
    marks = {prompt.messages[index] for index in prefixes.shared(prompt.chain)}
    position = request.position
    goes_on = bool(request.tools) or position > 1
    if goes_on and call.expected.input >= min_tokens:
        marks.add(position)
    marks.discard(0)
    return Hints(
        system=prompt.messages[0] == 0 and prompt.chain[0].tokens >= min_tokens,
        # The system's is one of the four that a request may have.
        marks=tuple(sorted(marks)[-3:]),
        hour=call.dispatch.policy.prompt_cache == "hour",
        slot=slot,
    )
