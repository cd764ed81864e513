"""`memory.limit`: a run, of any runner, in a control group whose memory the kernel limits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moex.cache.memory import parse_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

KEY = "memory.limit"
LEAST = 2**30
"""Interpreter and libraries alone take 0.7 GB."""
GROUPS = Path("/sys/fs/cgroup")


def enter(given: int | str | None, sweep: bool = False) -> int | None:
    """Run on in a control group of so many bytes, page cache included and without swap.

    This process is replaced by one in a systemd scope, which takes the same command.

    Args:
        given: bytes, as in the settings; None: no limit.
        sweep: whether this process runs several cells.

    Returns:
        The limit, once it holds; None without one.

    Raises:
        ValueError: it cannot be set.
    """
    if given is None:
        return None
    limit = parse_bytes(given, KEY)
    if limit < LEAST:
        raise ValueError(
            f"{KEY}={given} ({limit} bytes): expected at least {LEAST} bytes, of which interpreter "
            f"and libraries take most; try {KEY}=2GiB"
        )
    if sweep:
        raise ValueError(
            f"{KEY}={given}: cells of a sweep share a process; expected one run at a time; "
            f"try the command without -m, or {KEY}=null"
        )
    if granted() == limit:
        return limit
    scope = _scope(limit)
    _check(scope, given)
    os.execvp(scope[0], [*scope, sys.executable, *sys.orig_argv[1:]])
    raise AssertionError("the process was replaced")


def granted() -> int | None:
    """Return the bytes that our own control group (version 2) grants; None: no limit is known."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        path = next(line.removeprefix("0::/") for line in lines if line.startswith("0::"))
        return int((GROUPS / path / "memory.max").read_text())
    except (OSError, StopIteration, ValueError):  # no group, no such controller, or "max"
        return None


def _scope(limit: int) -> list[str]:
    own = [] if os.geteuid() == 0 else ["--user"]
    return ["systemd-run", *own, "--scope", "--quiet", f"-pMemoryMax={limit}", "-pMemorySwapMax=0"]


def _check(scope: Sequence[str], given: int | str) -> None:
    """Refuse where no such group can be made, or it limits nothing."""
    code = f"from moex.runs.limit import granted; raise SystemExit(granted() != {scope[-2][12:]})"
    try:
        done = subprocess.run(
            [*scope, sys.executable, "-c", code], capture_output=True, text=True, timeout=60
        )
        why = (done.stderr.strip().splitlines() or ["it limits nothing"])[-1]
        failed = done.returncode != 0
    except (OSError, subprocess.TimeoutExpired) as error:
        failed, why = True, str(error)
    if failed:
        raise ValueError(
            f"{KEY}={given}: no control group could be made here ({why}); expected systemd and "
            f"control groups of version 2; try {KEY}=null"
        )
