"""Traces of recorded routing: format, recorder, importers, diagnostics, synthetic traces."""
