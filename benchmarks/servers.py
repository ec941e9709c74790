"""The Messages server of a measurement, in a process of its own on a core of its own, and its clients on another.

    with serving(Setting(latency="120ms")) as server:
        found = client("calls.py", "avm", "cpu", url=server.url, agents=500)
        server.ledger()

`python servers.py JSON` is the server's process: it prints its address and runs until its input ends.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import attrs
import uvloop

from avm.io import Limits
from avm.testing import MessagesServer, ServerFault
from avm.testing.messages_server import Call

HERE = Path(__file__).resolve().parent
SERVER_CORE, CLIENT_CORE = 0, 1
CLIENT_LIMIT = 300.0
"""Seconds a client may take; one that hangs ends the benchmark."""

SLOWLY = b"slowly"
"""Requests with this word in them are answered slowly, if the setting says so."""

MANY = 1_000_000_000
"""A limit nobody reaches: its headers are sent and read all the same."""


@attrs.frozen(slots=True, kw_only=True)
class Setting:
    """What the server is to be like.

    Attributes:
        characters: of each reply.
        timed: instead reply with the seconds the server had the request, from taking it to answering it.
        delta: characters of one delta of a stream.
        slow: seconds before each event of a stream that is to be slow.
        speed: how many seconds pass here in a real one: buckets, cache and latency live by them.
    """

    characters: int = 200
    timed: bool = False
    latency: str | None = None
    delta: int = 16
    slow: float | None = None
    speed: float = 1.0
    requests: int = MANY
    input_tokens: int = MANY
    output_tokens: int = MANY

    def make(self) -> MessagesServer:
        """Make the server."""
        speed, slow = self.speed, None if self.slow is None else ServerFault.slow(self.slow)
        return MessagesServer(
            _timed if self.timed else ("word " * (self.characters // 5 + 1))[: self.characters],
            latency=self.latency,
            limits=Limits(
                requests=self.requests, input_tokens=self.input_tokens, output_tokens=self.output_tokens
            ),
            faults=None if slow is None else lambda number, call: slow if SLOWLY in call.raw else None,
            delta_characters=self.delta,
            now=lambda: time.monotonic() * speed,
            sleep=lambda seconds: asyncio.sleep(seconds / speed),
        )


def _timed(call: Call) -> Awaitable[str]:
    taken = time.perf_counter()

    async def say() -> str:
        return f"{time.perf_counter() - taken:.6f}"

    return say()


@attrs.frozen(slots=True)
class Served:
    """A server that runs."""

    url: str
    process: subprocess.Popen[str]

    def ledger(self) -> dict[str, Any]:
        """Ask what it did."""
        with urlopen(f"{self.url}/ledger") as response:
            found: dict[str, Any] = json.load(response)
        return found

    def cpu(self) -> float:
        """Return the seconds of CPU it has used."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(setting: Setting) -> Iterator[Served]:
    """Run a server in a process of its own."""
    command = [sys.executable, str(HERE / "servers.py"), json.dumps(attrs.asdict(setting))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError("the server of the benchmark did not start; what it said is above.")
        yield Served(url, process)
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()


def client(script: str, side: str, job: str, **settings: Any) -> dict[str, Any]:
    """Run a client in a process of its own, and return what it measured."""
    command = [sys.executable, str(HERE / script), side, job, json.dumps(settings)]
    # A peer may not get its 500 connections the first time; avm's own failures are not forgiven.
    for is_last in (side.startswith("avm"), True):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=CLIENT_LIMIT)
        if not done.returncode:
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
            return found
        if is_last:
            break
    raise RuntimeError(f"{script} {side} {job} failed with status {done.returncode}; what it said is above.")


def pin(core: int) -> None:
    """Keep this process on one core, where there are several and the system lets it."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})


async def _serve(setting: Setting) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)
    async with setting.make() as server:
        print(server.base_url, flush=True)
        await over.wait()
    loop.remove_reader(sys.stdin.fileno())


def main(setting: str) -> None:
    """Serve until the input ends."""
    pin(SERVER_CORE)
    uvloop.run(_serve(Setting(**json.loads(setting))))


if __name__ == "__main__":
    main(sys.argv[1])
