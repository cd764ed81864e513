"""Replay on a virtual clock."""
