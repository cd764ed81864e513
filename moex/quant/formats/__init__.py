"""Formats of packed checkpoints: a weight as the file has it."""
