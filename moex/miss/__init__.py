"""Handlers of misses: one file each."""
