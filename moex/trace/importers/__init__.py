"""Traces that other tools recorded: one file per format, each with one `read`."""
