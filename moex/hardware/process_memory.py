"""Memory of this process: resident set, peak, and returning freed memory."""

from __future__ import annotations

import ctypes
import re
import resource
from contextlib import suppress
from pathlib import Path


def peak_host_bytes() -> int:
    """Return the largest resident set of this process so far, in bytes."""
    return _status("VmHWM")


def resident_bytes() -> int:
    """Return the resident set of this process, in bytes; its peak if the system has no /proc."""
    return _status("VmRSS")


def _status(field: str) -> int:
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss would include the process before exec
        return int(re.search(rf"{field}:\s+(\d+)", status.read_text())[1]) * 1024  # type: ignore[index]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def trim() -> None:
    """Return freed memory to the system: glibc's heap keeps it, 0.8 GB after a large model."""
    with suppress(OSError, AttributeError):
        ctypes.pythonapi.malloc_trim(0)
