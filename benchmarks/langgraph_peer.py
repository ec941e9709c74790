"""LangGraph's side of the memory benchmark; run by the Python of an environment that has it (see peers.txt).

python langgraph_peer.py growth TURNS FOLDER MODE    commit after each turn with the SQLite saver; print bytes on disk
python langgraph_peer.py readers FILE PROMPT         threads that each read PROMPT and their line of FILE; print RSS

TURNS is a JSON file: {"system": text, "turns": [[text of the user, text of the model], ...]}. MODE is "default" (the
state that the documentation shows: MessagesState), "exit" (the same, one checkpoint a run) or "delta" (DeltaChannel,
which is in beta).
"""

import ctypes
import gc
import json
import operator
import os
import sqlite3
import sys
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, TypedDict

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph


def add_all(kept: list[AnyMessage] | None, writes: list[list[AnyMessage]]) -> list[AnyMessage]:
    """Put the writes of a step behind what is there."""
    return reduce(operator.add, writes, kept or [])


def graph(state: type, replies: list[str], saver: Any) -> Any:
    """Return a graph of one node, which gives the next of the replies."""

    def model(_: Any) -> dict[str, Any]:
        return {"messages": [AIMessage(replies.pop(0))]} if replies else {"messages": []}

    builder = StateGraph(state)
    builder.add_node("model", model)
    builder.add_edge(START, "model")
    builder.add_edge("model", END)
    return builder.compile(checkpointer=saver)


def growth(path: str, folder: str, mode: str) -> dict[str, float]:
    """One thread, a run a turn."""
    found = json.loads(Path(path).read_text())
    state: Any = MessagesState
    if mode == "delta":
        from langgraph.channels.delta import DeltaChannel

        channel = DeltaChannel(add_all)

        class Delta(TypedDict):
            messages: Annotated[list[AnyMessage], channel]

        state = Delta
    home = Path(folder)
    database = sqlite3.connect(home / "checkpoints.sqlite", check_same_thread=False)
    compiled = graph(state, [reply for _, reply in found["turns"]], SqliteSaver(database))
    config = {"configurable": {"thread_id": "agent"}}
    more: dict[str, Any] = {"durability": "exit"} if mode == "exit" else {}
    for number, (said, _) in enumerate(found["turns"]):
        messages: list[AnyMessage] = [HumanMessage(said)]
        if not number:
            messages.insert(0, SystemMessage(found["system"]))
        compiled.invoke({"messages": messages}, config, **more)
    kept = compiled.get_state(config).values["messages"]
    texts = [found["system"], *[text for turn in found["turns"] for text in turn]]
    assert [message.content for message in kept] == texts, "the thread is not what was put in"
    opened = _size(home)
    database.close()
    return {"open": opened, "bytes": _size(home)}


def readers(path: str, prompt: str) -> dict[str, float]:
    """One thread an agent, in LangGraph's saver in memory."""
    saver = InMemorySaver()
    compiled = graph(MessagesState, [], saver)
    kinds = {"user": HumanMessage, "assistant": AIMessage}
    before = settled()
    agents = 0
    with open(path, "rb") as file:
        for line in file:
            own = [kinds[message["role"]](message["content"]) for message in json.loads(line)["messages"]]
            messages = [SystemMessage(Path(prompt).read_text()), *own]
            compiled.invoke(
                {"messages": messages}, {"configurable": {"thread_id": str(agents)}}, durability="exit"
            )
            agents += 1
    return {"agents": agents, "bytes": settled() - before}


def settled() -> int:
    """Return the resident bytes, when the collector and malloc have given back what they can."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _size(home: Path) -> int:
    return sum(path.stat().st_size for path in home.rglob("*") if path.is_file())


if __name__ == "__main__":
    work = {"growth": growth, "readers": readers}[sys.argv[1]]
    print(json.dumps(work(*sys.argv[2:])), flush=True)
    os._exit(0)
