"""500 simulated cells serially and with joblib on all cores, and what a cell costs beside replay.

python experiments/benchmarks/sweeps/bench.py [--tiny]   # serial and joblib take turns
python experiments/benchmarks/sweeps/bench.py ceiling    # what two cores can give
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from time import perf_counter, thread_time

import moex
from analysis.paired import paired_ratio
from experiments.harness import ROOT, arguments
from moex.cache.lru import LRU


def sweep(seeds: int, *words: str, cpus: tuple[int, ...] = ()) -> float:
    """Seconds of a sweep into a fresh folder: 5 policies x 5 capacities x seeds.

    With `cpus`, one sweep on each of them, all at once and none knowing of the others.
    """
    command = [sys.executable, "run.py", "-m", "mode=simulate", "bottleneck=false", *words]
    command += ["prefetch=none", f"seed=range(0,{seeds})"]
    command += ["cache=lru,lfu,fifo,sieve,arc", "memory.slots=3,4,5,6,7"]
    with ExitStack() as stack:
        targets = cpus or (None,)
        folders = [stack.enter_context(tempfile.TemporaryDirectory()) for _ in targets]
        started = perf_counter()
        running = []
        for cpu, folder in zip(targets, folders, strict=True):
            pinned = [] if cpu is None else ["taskset", "-c", str(cpu)]
            words_here = [*pinned, *command, f"hydra.sweep.dir={folder}"]
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            running.append(subprocess.Popen(words_here, cwd=ROOT, **quiet))
        assert not any([process.wait() for process in running])
        seconds = perf_counter() - started
        assert all(len(list(Path(f).glob("*/result.json"))) == 25 * seeds for f in folders)
    return seconds


def replaying() -> float:
    """Seconds of the simulations themselves, a cell, by LRU."""
    trace, taken = moex.read_trace("tiny"), []
    for slots in (3, 4, 5, 6, 7):
        started = thread_time()
        moex.simulate(trace, LRU(), slots)
        taken.append(thread_time() - started)
    return sum(taken) / len(taken)


def speed(seeds: int, pairs: int) -> None:
    """Serial against joblib."""
    cells, alone, shared = 25 * seeds, [], []
    for _ in range(pairs):
        serial, parallel, replay = sweep(seeds), sweep(seeds, "hydra/launcher=joblib"), replaying()
        alone.append(serial)
        shared.append(parallel)
        cell = serial / cells
        print(f"{cells} cells: serial {serial:.1f} s, joblib {parallel:.1f} s")
        print(
            f"a cell, serial: {cell:.3f} s; replay (lru) {replay:.3f} s, the rest "
            f"{cell - replay:.3f} s",
            flush=True,
        )
    print(f"joblib on {os.cpu_count()} CPUs: {paired_ratio(alone, shared)}")


def ceiling(seeds: int, pairs: int) -> None:
    """The same work by independent serial sweeps, each on a CPU of its own: nothing to share."""
    cpus, ratios = tuple(sorted(os.sched_getaffinity(0))), []
    for _ in range(pairs):
        alone, together = sweep(seeds, cpus=cpus[:1]), sweep(seeds, cpus=cpus)
        ratios.append(len(cpus) * alone / together)
        print(
            f"{25 * seeds} cells: alone {alone:.1f} s, {len(cpus)} sweeps of as many at once "
            f"{together:.1f} s: {ratios[-1]:.2f}x",
            flush=True,
        )
    print(f"ceiling: {median(ratios):.2f}x, median of {pairs}; {len(cpus)} CPUs")


def main() -> None:
    """Run one of the two."""
    given = arguments(
        __doc__, tiny={"pairs": 2}, _part=("speed", "what", ["speed", "ceiling"]), pairs=7
    )
    if given.part == "ceiling":
        ceiling(1 if given.tiny else 10, given.pairs)
    else:
        speed(1 if given.tiny else 20, given.pairs)


if __name__ == "__main__":
    main()
