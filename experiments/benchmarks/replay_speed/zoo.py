"""Seconds for eight capacities of every policy in array form, compiling included, on all cores.

    python experiments/benchmarks/replay_speed/zoo.py [--accesses 8000000]

The trace is that of `speed.py`: a million visits of top-8. Nothing compiled before is used.
"""

from __future__ import annotations

import os
import tempfile
import time

from experiments.benchmarks.replay_speed.speed import CONFIGS, GEOMETRY, build, synthetic
from experiments.harness import arguments, table
from moex.api import curves
from moex.sim.arrays.compile import array_form


def main() -> None:
    """Time every policy's curve."""
    options = arguments(
        __doc__,
        tiny={"caches": ["lru", "fifo"], "accesses": 4000},
        _caches=[],
        accesses=8_000_000,
    )
    trace = synthetic(options.accesses)
    named = options.caches or sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    policies = {name: build(name) for name in named}
    slots = [GEOMETRY.experts * eighth // 8 for eighth in range(1, 9)]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MOEX_CACHE"] = os.environ["NUMBA_CACHE_DIR"] = folder
        for name, policy in policies.items():
            if array_form(policy):
                started = time.perf_counter()
                (curve,) = curves(trace, policy, slots=slots)
                rows.append([name, time.perf_counter() - started, curve.method[-1]])
    table(["cache", "seconds", "method"], [*rows, ["all", sum(row[1] for row in rows), ""]])


if __name__ == "__main__":
    main()
