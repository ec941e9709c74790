"""Peers: LangGraph, in an environment of its own, since avm depends on none of its packages."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
WANTED = HERE / "peers.txt"
HOW = "no LangGraph: --with-langgraph installs it into a cache folder, --peers-python PATH names a Python with it"


def find(python: str | None, *, install: bool) -> str | None:
    """Return a Python that has LangGraph; None if there is none and none is to be made.

    Args:
        python: one that has it. Without one, the environment in the cache folder is used if it is there.
        install: make that environment. Needs the network.
    """
    if python is not None:
        return python
    folder = _cache() / hashlib.sha256(WANTED.read_bytes()).hexdigest()[:12]
    found = folder / "bin" / "python"
    ready = folder / "ready"
    if install and not ready.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(found), "-m", "pip", "install", "--quiet", "--requirement", str(WANTED)]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        ready.touch()
    return str(found) if ready.exists() else None


def langgraph(python: str | None, *arguments: str | Path) -> dict[str, float] | None:
    """Run a part of `langgraph_peer.py` and return what it measured; None without LangGraph."""
    if python is None:
        return None
    command = [python, str(HERE / "langgraph_peer.py"), *map(str, arguments)]
    environment = {**os.environ, "LANGSMITH_TRACING": "false", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "avm-benchmarks"
