"""Test kit: a clock that is moved by hand."""

from avm.testing.clock import ManualClock

__all__ = ["ManualClock"]
