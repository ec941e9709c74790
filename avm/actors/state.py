"""What an actor is doing, as the one number a send looks at first."""

from __future__ import annotations

IDLE = 0  # nothing to do; a send may use the quick path
READY = 1  # in the ready queue, or a worker is inside of it
STARTING = 2  # `starting` has not returned yet
HELD = 3  # suspended with nothing running
RESTING = 4  # idle, but the next event has to be looked at: bounded mailbox, idle timeout, hibernation
STOPPING = 5  # inside `stopping`
DEAD = 6

STATES = ("idle", "ready", "starting", "suspended", "idle", "stopping", "dead")
"""What they are called in a status, by number."""
