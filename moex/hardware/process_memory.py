"""How much memory this process takes, and has taken."""

from __future__ import annotations

import ctypes
import re
import resource
from contextlib import suppress
from pathlib import Path


def peak_host_bytes() -> int:
    """Largest resident set of this process so far."""
    return _status("VmHWM")


def resident_bytes() -> int:
    """The resident set of this process; its peak on systems that do not say."""
    return _status("VmRSS")


def _status(field: str) -> int:
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss would count what the process was before exec
        return int(re.search(rf"{field}:\s+(\d+)", status.read_text())[1]) * 1024  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def trim() -> None:
    """Return to the system what was freed: glibc's heap keeps it, 0.8 GB after a large model."""
    with suppress(OSError, AttributeError):
        ctypes.pythonapi.malloc_trim(0)
