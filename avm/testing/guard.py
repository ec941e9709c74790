"""The guard: while a simulation runs, the real world is out of reach of the code in it.

Sockets, threads, processes, `time.sleep` and the clocks of module `time` are replaced for as long as the simulated
loop runs, on its own thread only. Each refuses with an error that says what to use instead, and the simulation
remembers it: an actor may catch the error or crash of it, the test fails all the same.

Clocks are refused to the code under test only: the standard library and installed packages may read them, since they
do so for logs and limits. What cannot be seen: a function taken out of `time` by `from time import ...` before, and
`datetime.now`, which is written in C. A replay notices when such a value changed the course of things.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from avm.errors import NotSimulated

CLOCKS = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns")

USE_NOW = "Use self.now() in an actor, kernel.now() elsewhere: the VM's clock."
USE_SLEEP = "Use `await asyncio.sleep(seconds)` or self.send_after(...): both take virtual time."
USE_PROVIDER = (
    "Models and tools are reached through the I/O pool: give simulate() a provider=, or the tool a fake."
)
USE_BLOCKING = "Use self.run_blocking(function): a simulation runs it in place, at a moment of its choice."
USE_FAKE = "Give the tool a fake, or do without it in a simulation."

_INSTALLED = tuple(
    os.path.realpath(sysconfig.get_paths()[name]) + os.sep
    for name in ("stdlib", "platstdlib", "purelib", "platlib")
)
_OURS = os.path.dirname(os.path.dirname(os.path.realpath(__file__))) + os.sep


class Guard:
    """What refuses while a loop runs; `refused` lists what it had to refuse."""

    def __init__(self) -> None:
        self.refused: list[NotSimulated] = []

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Keep the real world out of this thread."""
        _PATCHES.hold(self)
        try:
            yield
        finally:
            _PATCHES.release()

    def refuse(self, text: str) -> NotSimulated:
        """Make the error and remember it."""
        error = NotSimulated(text)
        self.refused.append(error)
        return error


Patch = tuple[Any, str, Callable[..., Any]]


class _Patches:
    """The replaced functions, while any thread has a simulation that runs."""

    def __init__(self) -> None:
        self._guards: dict[int, Guard] = {}
        self._lock = threading.Lock()
        self._trusted: dict[str, bool] = {}
        self._patches: list[Patch] = [*self._clocks(), *self._sockets(), *self._starts()]
        self._before: list[Any] = []

    def hold(self, guard: Guard) -> None:
        """Guard the current thread."""
        with self._lock:
            if not self._guards:
                self._before = [owner.__dict__.get(name) for owner, name, _ in self._patches]
                for owner, name, guarded in self._patches:
                    setattr(owner, name, guarded)
            self._guards[threading.get_ident()] = guard

    def release(self) -> None:
        """Guard it no longer."""
        with self._lock:
            del self._guards[threading.get_ident()]
            if self._guards:
                return
            for (owner, name, _), original in zip(self._patches, self._before, strict=True):
                if original is None:
                    delattr(owner, name)
                else:
                    setattr(owner, name, original)

    def _clocks(self) -> Iterator[Patch]:
        for name in CLOCKS:
            yield time, name, self._clock(f"time.{name}", getattr(time, name))
        yield time, "sleep", self._real(time.sleep, "time.sleep() holds up the loop", USE_SLEEP)

    def _sockets(self) -> Iterator[Patch]:
        for name in ("connect", "connect_ex", "bind", "listen", "sendto"):
            text = f"socket.{name}() reaches a real network"
            yield socket.socket, name, self._real(getattr(socket.socket, name), text, USE_PROVIDER)
        text = "socket.getaddrinfo() asks a real network"
        yield socket, "getaddrinfo", self._real(socket.getaddrinfo, text, USE_PROVIDER)

    def _starts(self) -> Iterator[Patch]:
        text = "a thread runs in real time"
        yield threading.Thread, "start", self._real(threading.Thread.start, text, USE_BLOCKING)
        text = "subprocess.Popen() starts a real process"
        yield subprocess.Popen, "__init__", self._real(subprocess.Popen.__init__, text, USE_FAKE)
        for name in ("system", "fork"):
            if hasattr(os, name):
                yield os, name, self._real(getattr(os, name), f"os.{name}() starts a real process", USE_FAKE)

    def _real(self, original: Callable[..., Any], text: str, instead: str) -> Callable[..., Any]:
        def guarded(*args: Any, **options: Any) -> Any:
            guard = self._guards.get(threading.get_ident())
            if guard is None:
                return original(*args, **options)
            raise guard.refuse(f"{text}, which a simulation does not. {instead}")

        return guarded

    def _clock(self, name: str, original: Callable[[], Any]) -> Callable[[], Any]:
        def guarded() -> Any:
            guard = self._guards.get(threading.get_ident())
            if guard is None or self._is_trusted(sys._getframe(1).f_code.co_filename):
                return original()
            raise guard.refuse(f"{name}() is real time, which has no meaning in a simulation. {USE_NOW}")

        return guarded

    def _is_trusted(self, file: str) -> bool:
        found = self._trusted.get(file)
        if found is None:
            path = os.path.realpath(file)
            found = self._trusted[file] = file.startswith("<") or path.startswith((*_INSTALLED, _OURS))
        return found


_PATCHES = _Patches()
