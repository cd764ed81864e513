"""How long the command line takes to begin: --help, and a small replay, as whole processes.

python experiments/benchmarks/spine/startup.py [--turns 7]
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np

from moex.trace.format import Trace, write_trace
from moex.types import Geometry

ROOT = Path(__file__).parents[3]


def seconds(words: list[str]) -> float:
    """Run the command once."""
    started = perf_counter()
    subprocess.run([sys.executable, "run.py", *words], cwd=ROOT, check=True, capture_output=True)
    return perf_counter() - started


def main() -> None:
    """Print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    args = parser.parse_args()
    visits = 64
    trace = Trace(
        Geometry(2, 8, 2, 4, 4, 96),
        np.zeros(visits, np.int32),
        np.arange(visits, dtype=np.int32) // 2,
        (np.arange(visits) % 2).astype(np.int16),
        np.zeros(visits, bool),
        np.tile(np.array([0, 1, 2, 3], np.uint16), visits // 2),
        np.arange(visits + 1) * 2,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = write_trace(trace, Path(folder) / "small.parquet")
        replay = ["mode=simulate", f"trace={path}", "prefetch=none", "force=true"]
        replay.append(f"hydra.run.dir={folder}/run")
        for name, words in (("--help", ["--help"]), ("mode=simulate", replay)):
            took = sorted(seconds(words) for _ in range(args.turns))
            print(f"{name:>14}: median {took[len(took) // 2]:.2f} s, fastest {took[0]:.2f} s")


if __name__ == "__main__":
    main()
