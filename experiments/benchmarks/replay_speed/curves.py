"""Seconds that a fresh process takes for all curves of a million accesses, compiling included.

    python experiments/benchmarks/replay_speed/curves.py [--accesses 1000000]

The trace is that of `speed.py`, read from a file; lru, perfect lfu and belady, a pool per layer,
every capacity from top-k to all experts. Nothing compiled before is used.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from speed import synthetic

from experiments.harness import arguments
from moex.trace.format import write_trace

CHILD = """
import sys
from moex.sim.curves.stack import curves
from moex.trace.format import read_trace
made = curves(read_trace(sys.argv[1]))
print({name: len(curve.slots) for name, curve in made.items()})
"""


def main() -> None:
    """Time three fresh processes."""
    options = arguments(
        __doc__, tiny={"accesses": 2000, "repeats": 1}, accesses=1_000_000, repeats=3
    )
    with tempfile.TemporaryDirectory() as folder:
        path = write_trace(synthetic(options.accesses), Path(folder) / "trace.parquet")
        for number in range(options.repeats):
            compiled = {**os.environ, "NUMBA_CACHE_DIR": f"{folder}/compiled-{number}"}
            started = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", CHILD, str(path)],
                env=compiled,
                capture_output=True,
                text=True,
                check=True,
            )
            print(f"{time.perf_counter() - started:.2f} s  {done.stdout.strip()}", flush=True)


if __name__ == "__main__":
    main()
