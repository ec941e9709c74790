"""The router: delivery by name, path, topic and strategy, publish and subscribe, taps, and events as bytes."""

from avm.router.addresses import Address
from avm.router.codec import Codec, Envelope, Packed, Packet
from avm.router.dead_letters import DeadLetters, DeadLetterStatistics
from avm.router.router import Router, RouterStatistics, TapFailed, Topic
from avm.router.strategies import broadcast, by_key, least_loaded, partitions, round_robin
from avm.router.topics import GroupChanged, Topics, Watch

__all__ = [
    "Address",
    "Codec",
    "DeadLetterStatistics",
    "DeadLetters",
    "Envelope",
    "GroupChanged",
    "Packed",
    "Packet",
    "Router",
    "RouterStatistics",
    "TapFailed",
    "Topic",
    "Topics",
    "Watch",
    "broadcast",
    "by_key",
    "least_loaded",
    "partitions",
    "round_robin",
]
