"""Messages of a run on stderr, beside its results."""

from __future__ import annotations

import sys


def note(text: str) -> None:
    """Print a message to stderr."""
    print(f"moex: {text}", file=sys.stderr)
