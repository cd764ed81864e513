"""Importers of traces from other tools: one file per format, each with one `read`."""
