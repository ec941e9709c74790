"""Whole programs in a process of their own, for what belongs to a process: signals, exit status, debug mode."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import attrs

ROOT = Path(__file__).resolve().parent.parent.parent
LIMIT = 20.0

PRELUDE = """
import asyncio, sys, time
import avm.vm
from avm.actors import Actor, Request, event, on
from avm.supervision import child, supervisor
from avm.vm import VM, run

@event(tag="program.Go")
class Go(Request[int]):
    pass

def say(line):
    print(line, flush=True)

class Talker(Actor):
    def stopping(self, reason):
        say(f"stopped {self.path}")

    @on(Go)
    def go(self, go):
        return 1

def tree(*more):
    return supervisor("tree", max_restarts=100, children=[child("a", Talker), child("b", Talker), *more])

def vm(*more, **options):
    return VM(tree(*more), **{"memory": None, "provider": "scripted", **options})
"""


@attrs.frozen
class Ended:
    """How a program ended."""

    status: int
    out: list[str]
    err: str


def play(
    code: str, *, signals: Sequence[signal.Signals] = (), debug: bool = False, pause: float = 0.0
) -> Ended:
    """Run a program; send it each signal when it says "ready", and the next after it says "ready" again.

    Args:
        pause: seconds from "ready" to the signal, for programs that cannot say it later.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    if debug:
        environment["PYTHONASYNCIODEBUG"] = "1"
    environment.pop("ANTHROPIC_API_KEY", None)
    program = subprocess.Popen(
        [sys.executable, "-X", "dev", "-c", PRELUDE + textwrap.dedent(code)]
        if debug
        else [sys.executable, "-c", PRELUDE + textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    assert program.stdout is not None
    out: list[str] = []
    try:
        for signum in signals:
            for line in program.stdout:
                out.append(line.rstrip())
                if out[-1] == "ready":
                    break
            if pause:
                import time

                time.sleep(pause)
            program.send_signal(signum)
        rest, err = program.communicate(timeout=LIMIT)
    finally:
        program.kill()
        program.wait()
    return Ended(program.returncode, [*out, *rest.split("\n")[:-1]], err)
