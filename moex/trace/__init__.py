"""Recorded routing: the format and its recorder."""
