"""The main job as a process of its own, watched from outside: does it finish, and what does it take at most."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
from histories import History

from avm.memory import write_conversations

GLANCE = 0.02
"""Seconds between two looks at the process. VmHWM only rises, so what is missed is the rise after the last look."""


@attrs.frozen(slots=True)
class Watched:
    """How a job went: `last` is its last line of JSON, `said` what it said at its end."""

    status: int
    seconds: float
    peak: int
    last: dict[str, Any]
    said: str

    @property
    def finished(self) -> bool:
        """Whether everything was played, and kept as recorded."""
        return self.status == 0 and bool(self.last.get("final"))


def watch(workload: Path, agents: int, memory: str, folder: Path, limit: float) -> Watched:
    """Run `avm` until each agent has played a conversation, and watch its resident size.

    Args:
        limit: seconds after which it is ended.
    """
    command = [
        sys.executable,
        "-P",
        "-m",
        "avm.cli.main",
        "--agents",
        str(agents),
        "--memory",
        memory,
        "--json",
    ]
    command += ["--workload", str(workload), "--conversations", str(agents), "--model-latency", "10ms"]
    out, said = folder / "job.json", folder / "job.txt"
    with out.open("wb") as stdout, said.open("wb") as stderr:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _peak(process.pid))
            if time.perf_counter() - began > limit:
                process.kill()
            time.sleep(GLANCE)
        took = time.perf_counter() - began
    lines = out.read_text().splitlines()
    words = said.read_text().strip().splitlines()
    return Watched(
        process.returncode, took, peak, json.loads(lines[-1]) if lines else {}, words[-1] if words else ""
    )


def write_workload(path: Path, histories: Iterable[History]) -> Path:
    """Write histories as a workload for `avm`."""
    lines = (
        {"id": f"{number}", "system": h.system, "tools": h.tools, "messages": h.messages}
        for number, h in enumerate(histories)
    )
    write_conversations(path, lines)
    return path


# Not getrusage: its peak of a child includes that of the parent it was forked from.
def _peak(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else 0
