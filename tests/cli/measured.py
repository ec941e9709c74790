"""A measurement to render."""

from __future__ import annotations

from avm.cli.figures import Figures

FIGURES = Figures(
    seconds=83.2,
    agents=1000,
    active=12,
    waiting={"Idle": 7, "LlmReply": 960, "ToolResult": 21},
    rss_bytes=80 << 20,
    store_bytes=19 << 20,
    held_bytes=50 << 20,
    hot_bytes=2_000_000,
    warm_bytes=3_000_000,
    cold_bytes=0,
    asleep=0,
    disk_bytes=0,
    spills=0,
    wakes=0,
    wake_p50_ms=0.0,
    commit_p99_ms=0.0,
    read_back=0,
    dedup_held=0.6123,
    dedup_sent=0.9,
    compression=3.14159,
    requests=51234,
    requests_per_s=7012.34,
    tool_calls=24000,
    in_flight=960,
    queued=3,
    latency_p50_ms=120.123,
    latency_p99_ms=271.987,
    restarts=4,
    dead_letters=2,
    mailbox=31,
    deepest=9,
    conversations_done=3712,
    turns_done=35826,
    resumed=4,
    provider="scripted",
    cores=0.96,
)
