"""Recorded conversations, and the provider that gives their models' replies again.

A recorded conversation is kept as fragments: its messages as compact JSON. The provider looks a request's reply up by
the conversation's key (the request's label) and position, so it holds no state and any number of agents may play the
same conversation at once, from any position.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import attrs
import msgspec

from avm.actors.event import ATOMS
from avm.errors import BadOutput, WorkloadError
from avm.io.limits import Limits
from avm.io.providers.scripted import Faults, Latency, ScriptedProvider, Sleep
from avm.io.providers.simulated import SimulatedServer
from avm.io.request import Completion, Message, ModelRequest, decode_fragment, encode_fragment

ROLES = {"user": "u", "assistant": "a", "tool": "t"}


@attrs.frozen(slots=True, eq=False)
class Recording:
    """One recorded conversation. `key` is unique among its recordings; `roles` has a letter (u, a, t) a message."""

    key: str
    model: str
    system: str
    tools: bytes
    """The tools' schemas as recorded, as compact JSON."""
    fragments: tuple[bytes, ...] = attrs.field(repr=False)
    roles: str
    frame: dict[str, Any] = attrs.field(repr=False)
    """The other fields of the record, in its order; `messages`, `system` and `tools` hold their places."""

    def message(self, position: int) -> Message:
        """Return the message at a position; the caller's own."""
        return decode_fragment(self.fragments[position])

    def record(self, messages: Iterable[Message]) -> dict[str, Any]:
        """Return the record with these messages in place of its own."""
        record = dict(self.frame)
        for name, value in (("system", self.system), ("tools", msgspec.json.decode(self.tools))):
            if name in record:
                record[name] = value
        record["messages"] = list(messages)
        return record

    def __len__(self) -> int:
        return len(self.fragments)


class Recordings(Sequence[Recording]):
    """Recorded conversations, by index and by key.

    Args:
        records: parsed lines of a conversation file. Equal prompts and tools are kept once.

    Raises:
        WorkloadError: a record that is no conversation: which, what was found and what was expected.
    """

    def __init__(self, records: Iterable[Mapping[str, Any]]) -> None:
        self._recordings: list[Recording] = []
        self._by_key: dict[str, Recording] = {}
        shared: dict[str | bytes, Any] = {}
        for number, record in enumerate(records, 1):
            recording = _read(record, number, self._by_key, shared)
            self._recordings.append(recording)
            self._by_key[recording.key] = recording

    def find(self, key: str) -> Recording | None:
        """Return the recording of a key, None if there is none."""
        return self._by_key.get(key)

    @overload
    def __getitem__(self, index: int) -> Recording: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Recording]: ...

    def __getitem__(self, index: int | slice) -> Recording | Sequence[Recording]:
        return self._recordings[index]

    def __len__(self) -> int:
        return len(self._recordings)

    def __iter__(self) -> Iterator[Recording]:
        return iter(self._recordings)


ATOMS.update((Recording, Recordings))


class RecordedProvider(ScriptedProvider):
    """Gives the assistants' messages of recorded conversations.

    Args:
        recordings: where the replies are.
        latency, faults, seed, concurrency, sleep, limits, server: as for `ScriptedProvider`.
    """

    def __init__(
        self,
        recordings: Recordings,
        *,
        latency: Latency | None = None,
        faults: Faults | None = None,
        seed: int = 0,
        concurrency: int | None = None,
        sleep: Sleep | None = None,
        limits: Limits | None = None,
        server: SimulatedServer | None = None,
    ) -> None:
        super().__init__(
            (),
            latency=latency,
            faults=faults,
            seed=seed,
            concurrency=concurrency,
            sleep=sleep,
            limits=limits,
            server=server,
        )
        self.recordings = recordings

    async def reply(self, request: ModelRequest, number: int) -> Completion:
        """Return the recorded reply at the request's position."""
        recording = self.recordings.find(request.label)
        position = request.position
        if recording is None:
            raise self._missing(request, "no such conversation is recorded")
        if position >= len(recording) or recording.roles[position] != "a":
            found = (
                f"a message of role {recording.roles[position]!r}" if position < len(recording) else "the end"
            )
            raise self._missing(
                request, f"at position {position} the recording has {found}, not an assistant's"
            )
        fragment = recording.fragments[position]
        wants_tools = recording.roles[position + 1 : position + 2] == "t"
        return Completion(
            fragment, "tool_use" if wants_tools else "end_turn", request.model, provider=self.name
        )

    def _missing(self, request: ModelRequest, why: str) -> BadOutput:
        text = f"there is no recorded reply for conversation {request.label!r} of {request.agent!r}: {why}."
        return BadOutput(text, self.name, request.model)


def _read(
    record: Mapping[str, Any], number: int, taken: Mapping[str, Recording], shared: dict[str | bytes, Any]
) -> Recording:
    if not isinstance(record, Mapping):
        raise WorkloadError(f"conversation {number} must be a JSON object, got {type(record).__name__}.")
    messages = record.get("messages")
    if not isinstance(messages, list):
        raise _wrong(number, "messages", "a list", messages)
    for name in ("id", "model", "system"):
        if not isinstance(record.get(name, ""), str):
            raise _wrong(number, name, "text", record[name])
    for place, message in enumerate(messages):
        _check(message, f"messages[{place}]", number)
    model, system = str(record.get("model", "")), str(record.get("system", ""))
    tools = encode_fragment(record.get("tools", []))
    elsewhere = dict.fromkeys(("messages", "system", "tools"))
    return Recording(
        key=_key(record.get("id", ""), number, taken),
        model=shared.setdefault(model, model),
        system=shared.setdefault(system, system),
        tools=shared.setdefault(tools, tools),
        fragments=tuple(encode_fragment(message) for message in messages),
        roles="".join(ROLES[message["role"]] for message in messages),
        frame={name: elsewhere.get(name, value) for name, value in record.items()},
    )


def _key(id: str, number: int, taken: Mapping[str, Recording]) -> str:
    if id and id not in taken:
        return id
    return f"{id or 'conversation'}~{number}"


def _check(message: object, where: str, number: int) -> None:
    if not isinstance(message, dict):
        raise _wrong(number, where, "an object", message)
    if message.get("role") not in ROLES:
        raise _wrong(number, f"{where}.role", "'user', 'assistant' or 'tool'", message.get("role"))
    if not isinstance(message.get("content"), str):
        raise _wrong(number, f"{where}.content", "text", message.get("content"))
    calls = message.get("tool_calls")
    if calls is None:
        return
    if not isinstance(calls, list):
        raise _wrong(number, f"{where}.tool_calls", "a list", calls)
    for n, call in enumerate(calls):
        for name in ("id", "name", "arguments"):
            found = call.get(name) if isinstance(call, dict) else None
            if not isinstance(found, str):
                raise _wrong(number, f"{where}.tool_calls[{n}].{name}", "text", found)


def _wrong(number: int, where: str, expected: str, found: object) -> WorkloadError:
    brief = repr(found)
    brief = brief if len(brief) <= 60 else f"{brief[:57]}..."
    return WorkloadError(f"conversation {number}: {where} must be {expected}, got {brief}.")
