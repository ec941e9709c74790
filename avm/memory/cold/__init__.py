"""The cold tier: content and conversations on disk."""
