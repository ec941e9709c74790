"""What operators see: reports in the log."""

from avm.observe.log import LogReports, level_of, text_of

__all__ = ["LogReports", "level_of", "text_of"]
