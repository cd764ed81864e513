"""Accesses per second of compiled replays on one core, policy by policy, beside interpreted ones.

    python experiments/benchmarks/replay_speed/compiled.py [cache ...] [--slots 8 16]

The recorded gpt-oss-20b routing where it is there (`replay_conformance`), else a synthetic trace of
16 layers x 64 experts, top-8. Compilation is timed apart, into an empty folder, and so is loading
what was compiled. CPU seconds of the process; what else runs on the machine still slows it.
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.benchmarks.replay_conformance import golden
from experiments.benchmarks.replay_speed.speed import CONFIGS, build, synthetic
from experiments.harness import arguments, machine, table
from moex.cache.core import ExpertCache
from moex.prefetch.gate import Gate
from moex.sim.arrays.compile import array_form
from moex.sim.replay import RecordedFuture
from moex.sim.scaled import scaled
from moex.sim.simulator import simulate

if TYPE_CHECKING:
    from moex.runs.report import Report
    from moex.trace.format import Trace

INTERPRETED = 200_000
"""Accesses that the interpreter is given."""


def timed(trace: Trace, name: str, slots: int, pool: str, **parts: Any) -> tuple[float, Report]:
    """CPU seconds of a replay, and its row."""
    policy = build(name)
    future = RecordedFuture(trace) if "future" in policy.needs else None
    cache = ExpertCache(policy, trace.geometry, slots, pool, future=future)
    begun = time.process_time()
    report = simulate(trace, cache, **parts)
    return time.process_time() - begun, report


def first(trace: Trace, passes: int) -> Trace:
    """The first passes of a trace."""
    return trace.select(slice(passes * trace.geometry.layers))


def speeds(trace: Trace, names: list[str], slots: list[int], **parts: Any) -> None:
    """Print million accesses a second of compiled replays."""
    pools = [("layer", each) for each in slots] + [("global", slots[0])]
    rows, size = [], len(trace.experts) / 1e6
    for name in names:
        compiling = timed(first(trace, 2), name, slots[0], "layer", compiled=True, **parts)[0]
        cells = []
        for pool, each in pools:
            seconds, report = timed(trace, name, each, pool, compiled=True, **parts)
            assert report.replay == "compiled", report.interpreted_because
            cells += [size / seconds, report.hit_rate]
        rows.append([name, compiling, *cells])
    head = [f"{part} {pool}, {each}" for pool, each in pools for part in ("M/s", "hits")]
    table(["cache", "compiling s", *head], rows)


def with_lookahead(trace: Trace, accuracy: float = 0.8) -> Trace:
    """The trace with lookahead scores drawn so that most of the next layer's experts are named."""
    draw = np.random.default_rng(0)
    geometry, visits = trace.geometry, len(trace)
    scores = draw.random((visits, geometry.experts), np.float32)
    right = draw.random(len(trace.experts)) < accuracy
    owner = np.repeat(np.arange(visits), np.diff(trace.offsets))
    scores[owner[right], trace.experts[right]] += 1
    ahead = np.full((visits, 3 * geometry.experts), np.nan, np.float32)
    inner = np.flatnonzero(trace.layer[:-1] + 1 == trace.layer[1:])
    ahead[inner, : geometry.experts] = scores[inner + 1]
    trace.lookahead = ahead
    return trace


def main() -> None:
    """Print the tables."""
    options = arguments(
        __doc__,
        tiny={"caches": ["lru"], "accesses": 2000, "slots": [8], "synthetic": True},
        _caches=[],
        slots=[8, 16],
        accesses=2_000_000,
        synthetic=(False, "the synthetic trace, also where a recorded one is there"),
    )
    recorded = golden.folder().is_dir() and not options.synthetic
    trace = golden.load() if recorded else synthetic(options.accesses)
    print(f"{len(trace.experts)} accesses, {'gpt-oss-20b' if recorded else 'synthetic'}")
    named = options.caches or sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    arrays = [name for name in named if array_form(build(name))]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MOEX_CACHE"] = folder
        speeds(trace, arrays, options.slots)
        shown = first(with_lookahead(first(trace, 40_000)), 40_000)
        parts = {"prefetcher": Gate(), "hardware": scaled(machine("rtx3090"), shown)}
        print("\nwith the clock and gate lookahead")
        speeds(shown, arrays[:1] if options.tiny else ["lru", "lfu", "belady"], [8], **parts)
    short = first(trace, INTERPRETED // (trace.geometry.layers * trace.geometry.top_k))
    rows = []
    for name in named:
        if name in ("mrs", "learned", "forecast"):  # need what the recorded routing lacks
            continue
        seconds, _ = timed(short, name, options.slots[0], "layer", compiled=False)
        rows.append([name, len(short.experts) / seconds / 1e6])
    print("\ninterpreted")
    table(["cache", f"M/s layer, {options.slots[0]}"], rows)


if __name__ == "__main__":
    main()
