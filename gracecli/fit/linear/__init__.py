"""Models that are linear in all their weights, solved directly instead of trained: presets ``linear-*``."""
