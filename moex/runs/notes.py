"""Messages of a run on stderr, beside its results."""

from __future__ import annotations

import shutil
import sys

CLEAR = "\r\x1b[K"
"""What a terminal clears its last line at."""


def note(text: str) -> None:
    """Print a message to stderr."""
    progress("")
    print(f"moex: {text}", file=sys.stderr)


def progress(text: str) -> None:
    """Show on a terminal, in the place of the last such line, what is being done; "": nothing.

    Where stderr is no terminal, nothing is written.
    """
    if sys.stderr.isatty():
        width = shutil.get_terminal_size().columns - 1
        line = f"moex: {text}"[:width] if text else ""
        print(f"{CLEAR}{line}", end="", file=sys.stderr, flush=True)
