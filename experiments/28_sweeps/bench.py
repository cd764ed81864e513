"""500 simulated cells serially and with joblib on all cores, and what a cell costs beside replay.

python experiments/28_sweeps/bench.py [--tiny]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import moex
from moex.cache.lru import LRU

ROOT = Path(__file__).parents[2]


def sweep(seeds: int, *words: str) -> float:
    """Seconds of a sweep into a fresh folder: 5 policies x 5 capacities x seeds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "run.py", "-m", "mode=simulate", "verdict=false", *words]
        command += ["prefetch=none", f"hydra.sweep.dir={folder}", f"seed=range(0,{seeds})"]
        command += ["cache=lru,lfu,fifo,sieve,arc", "memory.slots=3,4,5,6,7"]
        started = perf_counter()
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        seconds = perf_counter() - started
        assert len(list(Path(folder).glob("*/result.json"))) == 25 * seeds
    return seconds


def main() -> None:
    """Measure and print."""
    seeds = 1 if "--tiny" in sys.argv else 20
    trace = moex.read_trace("tiny")
    started = perf_counter()
    for slots in (3, 4, 5, 6, 7):
        moex.simulate(trace, LRU(), slots)
    replay = (perf_counter() - started) / 5
    serial = sweep(seeds)
    parallel = sweep(seeds, "hydra/launcher=joblib")
    cells = 25 * seeds
    print(
        f"{cells} cells: serial {serial:.1f} s, joblib {parallel:.1f} s: {serial / parallel:.2f}x"
    )
    cell = serial / cells
    print(
        f"a cell, serial: {cell:.3f} s; replay (lru) {replay:.3f} s, the rest {cell - replay:.3f} s"
    )


if __name__ == "__main__":
    main()
