"""Checks the JSON lines of a main job: every line has its keys, and the last one says that all went well."""

from __future__ import annotations

import json
import sys
from pathlib import Path

KEYS = {
    "active",
    "agents",
    "compression",
    "conversations_done",
    "dead_letters",
    "dedup_held",
    "dedup_sent",
    "latency_p50_ms",
    "latency_p99_ms",
    "provider",
    "requests",
    "requests_per_s",
    "restarts",
    "rss_bytes",
    "store_bytes",
    "turns_done",
    "waiting",
}


def main(path: str, *options: str) -> None:
    lines = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    for number, line in enumerate(lines, 1):
        missing = KEYS - line.keys()
        if missing:
            sys.exit(f"line {number} of the main job has no {', '.join(sorted(missing))}")
    last = lines[-1]
    if last.get("final") is not True:
        sys.exit(f"the last line of the main job is not the final one: {last}")
    if not last["requests"] or not last["turns_done"]:
        sys.exit(f"the main job did nothing: {last}")
    if "--restarts" in options and not last["restarts"]:
        sys.exit(f"nothing was restarted under chaos: {last}")
    if "--live" in options and (last["provider"] == "scripted" or last["io"]["failed"]):
        sys.exit(f"the main job was not live, or calls failed: {last}")
    print(f"{len(lines)} lines; {last['conversations_done']} conversations, {last['turns_done']} turns, "
          f"{last['restarts']} restarts, {last['rss_bytes'] // 2**20} MiB")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
