"""What a run says on the screen beside its results."""

from __future__ import annotations

import sys


def note(text: str) -> None:
    """Say something that is no result."""
    print(f"moex: {text}", file=sys.stderr)
