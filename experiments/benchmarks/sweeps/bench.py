"""500 simulated cells serially and with joblib on all cores, and what a cell costs beside replay.

python experiments/benchmarks/sweeps/bench.py [--tiny]   # serial and joblib take turns
python experiments/benchmarks/sweeps/bench.py ceiling    # what two cores can give
python experiments/benchmarks/sweeps/bench.py ray        # 64 cells: one process, local Ray cluster
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter, sleep, thread_time
from typing import TYPE_CHECKING

import moex
from analysis.paired import paired_ratio
from experiments.harness import ROOT, arguments
from moex.cache.lru import LRU
from moex.trace.synthetic import write_synthetic
from moex.types import Geometry

if TYPE_CHECKING:
    from collections.abc import Iterator


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


@contextmanager
def ray_cluster(workers: int) -> Iterator[str]:
    """Run a Ray cluster of so many workers on this machine; give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--port={port}", f"--num-cpus={workers}", "--include-dashboard=false"]
    command += ["--node-ip-address=127.0.0.1", "--object-store-memory=80000000"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    cluster = subprocess.Popen([*command, "--disable-usage-stats"], **quiet, start_new_session=True)
    try:
        sleep(15)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(cluster.pid, signal.SIGTERM)
        cluster.wait(timeout=60)


def on_ray(cells: int, pairs: int, accesses: int) -> None:
    """The same cells in one process and on a Ray cluster of two workers: seconds, and rows."""
    alone, shared = [], []
    with tempfile.TemporaryDirectory() as folder, ray_cluster(2) as address:
        trace = Path(folder) / "trace.parquet"
        tokens = max(2, accesses // (4 * 48 * 8))
        write_synthetic(trace, Geometry(48, 128, 8, 2048, 768, 9_437_184), tokens, 4)
        command = [sys.executable, "run.py", "-m", "mode=simulate", "bottleneck=false"]
        command += ["prefetch=none", f"trace={trace}", "cache=lru,lfu", "memory.slots=16,32,64,96"]
        command += [f"seed=range(0,{max(1, cells // 8)})"]
        ray = ("hydra/launcher=ray", f"hydra.launcher.address={address}")
        for pair in range(pairs):
            rows = []
            for number, words in enumerate(((), ray)):
                out = Path(folder) / f"{pair}-{number}"
                started = perf_counter()
                subprocess.run(
                    [*command, f"hydra.sweep.dir={out}", *words],
                    cwd=ROOT,
                    check=True,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
                (shared if words else alone).append(perf_counter() - started)
                rows.append(_rows(out))
            assert rows[0] == rows[1], "other rows"
            print(f"{len(rows[0])} cells: one process {alone[-1]:.1f} s, Ray {shared[-1]:.1f} s")
    if pairs > 1:
        print(f"Ray, two workers: {paired_ratio(alone, shared)}; the same rows")


def _rows(folder: Path) -> dict[str, dict[str, object]]:
    """The rows of a sweep by run, without when and where."""
    found = {
        path.parent.name: json.loads(path.read_text()) for path in folder.glob("*/result.json")
    }
    return {name: row | {"started": "", "machine": ""} for name, row in found.items()}


def main() -> None:
    """Run one of the three."""
    given = arguments(
        __doc__,
        tiny={"pairs": 2, "cells": 8, "accesses": 10_000},
        _part=("speed", "what", ["speed", "ceiling", "ray"]),
        pairs=7,
        cells=(64, "of the sweep on Ray"),
        accesses=(1_000_000, "of the trace replayed on Ray"),
    )
    if given.part == "ray":
        on_ray(given.cells, given.pairs, given.accesses)
    elif given.part == "ceiling":
        ceiling(1 if given.tiny else 10, given.pairs)
    else:
        speed(1 if given.tiny else 20, given.pairs)


if __name__ == "__main__":
    main()
