"""Accesses per second that the object replay reaches, one line a policy, on one core.

    python experiments/benchmarks/replay_speed/speed.py [cache ...] [--accesses 1000000]

The trace is synthetic: 16 layers, top-8 of 64 experts, skewed, with half of a visit's experts kept
from the layer's visit before; 32 slots a layer. A fixed loop of dictionary work is timed before
every policy: on a disturbed machine compare the ratio, not the rate.
"""

from __future__ import annotations

import importlib
import random
import time
from itertools import accumulate
from typing import Any

import numpy as np
import yaml

from experiments.harness import ROOT, arguments
from moex.cache.core import ExpertCache
from moex.sim.simulator import simulate
from moex.trace.format import Trace
from moex.types import Geometry

GEOMETRY = Geometry(16, 64, 8, 2048, 1024, 12_582_912)
SLOTS = 32
CONFIGS = ROOT / "conf" / "cache"


def synthetic(accesses: int) -> Trace:
    """Draw the trace: Zipf weights in an order of their own per layer, half kept from before."""
    draws = random.Random(0)
    layers, experts, top_k = GEOMETRY[:3]
    weights = list(accumulate(1 / (rank + 1) ** 0.6 for rank in range(experts)))
    orders = [draws.sample(range(experts), experts) for _ in range(layers)]
    last: list[list[int]] = [[] for _ in range(layers)]
    flat: list[int] = []
    visits = accesses // top_k
    for visit in range(visits):
        layer = visit % layers
        chosen = draws.sample(last[layer], top_k // 2) if last[layer] else []
        while len(chosen) < top_k:
            index = orders[layer][draws.choices(range(experts), cum_weights=weights)[0]]
            if index not in chosen:
                chosen.append(index)
        last[layer] = chosen
        flat.extend(chosen)
    clocks = np.arange(visits)
    scores = np.zeros((visits, experts), np.float32)
    ids = np.array(flat, np.uint16)
    scores[clocks.repeat(top_k), ids] = np.tile(np.linspace(0.3, 0.05, top_k), visits)
    return Trace(
        GEOMETRY,
        np.zeros(visits, np.int32),
        (clocks // layers).astype(np.int32),
        (clocks % layers).astype(np.int16),
        np.zeros(visits, np.bool_),
        ids,
        np.arange(visits + 1) * top_k,
        scores,
    )


def reference() -> float:
    """Seconds of a fixed loop: a million dictionary moves."""
    slots = {number: number for number in range(64)}
    start = time.process_time()
    for number in range(1_000_000):
        slots[number % 64] = slots.pop(number % 64) + 1
    return time.process_time() - start


def build(name: str) -> Any:
    """The policy as its yaml describes it."""
    fields = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    module, _, kind = fields.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), kind)(**fields)


def main() -> None:
    """Time every named policy (default: all), least disturbed of two rounds."""
    options = arguments(
        __doc__, tiny={"accesses": 2000, "rounds": 1}, _caches=[], accesses=1_000_000, rounds=2
    )
    trace = synthetic(options.accesses)
    scored = {"mrs", "learned"}
    rows = trace.scores
    print("cache            M accesses/s   reference s   accesses per reference   hit rate")
    alone = sorted({path.stem for path in CONFIGS.glob("*.yaml")} - {"forecast"})
    for name in options.caches or alone:
        policy = build(name)
        trace.scores = rows if name in scored else None
        future = trace.future() if "future" in policy.needs else None
        cache = ExpertCache(policy, GEOMETRY, SLOTS, future=future)
        best = (0.0, 0.0, 0.0)
        for _ in range(options.rounds):
            yardstick = reference()
            start = time.process_time()
            report = simulate(trace, cache)
            speed = options.accesses / (time.process_time() - start) / 1e6
            best = max(best, (speed * yardstick, speed, yardstick))
        print(
            f"{name:<16} {best[1]:12.3f} {best[2]:13.3f} {best[0]:24.3f} {report.hit_rate:10.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
