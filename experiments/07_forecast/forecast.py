"""Calibrate once, then forecast runs that were not calibrated on, and say how wrong that was.

One calibration and one recorded trace; then every cell of policies x slots x prefetch x link speed
is run live behind the emulated link and compared with its simulation.

python experiments/07_forecast/forecast.py [--turns 7] [--tokens 48] [--threads 1]
"""

import argparse
import itertools
from dataclasses import replace
from statistics import mean, median, quantiles

import torch

from moex.cache.core import ExpertCache
from moex.cache.fifo import FIFO
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.prefetch.gate import Gate
from moex.prefetch.none import NoPrefetch
from moex.runner.assemble import Memory, load_parts, offload
from moex.runner.calibrate import calibrate
from moex.runner.workload import generate
from moex.sim.simulator import simulate

PROMPTS = [torch.arange(16 + 97 * k, 48 + 97 * k)[None] for k in range(4)]
CELLS = list(itertools.product((LRU(), LFU(), FIFO()), (2, 4), (NoPrefetch(), Gate()), (1.0, 4.0)))


def main() -> None:
    """Print every cell, and the mean absolute error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    parts = load_parts("tiny")
    geometry, here = parts.geometry, calibrate(parts)
    layer_s = here.visit_s + geometry.top_k * here.expert_s
    recording = offload(parts, LRU(), Memory(geometry.experts))
    with recording as model:
        generate(model, PROMPTS, args.tokens, recording.meter)
    trace = recording.recorder.trace({})
    print(f"calibrated: visit {1e6 * here.visit_s:.0f} us, expert {1e6 * here.expert_s:.0f} us")
    print("policy  slots prefetch   load/layer | live tok/s (IQR)  forecast  error")
    errors, spreads = [], []
    speeds: dict[int, list[float]] = {number: [] for number in range(len(CELLS))}
    for _ in range(args.turns):
        for number, (policy, slots, prefetcher, load) in enumerate(CELLS):
            link = geometry.expert_bytes / (load * layer_s)
            profile = replace(here, name="emulated", link_bytes_per_s=link, chunk_bytes=1 << 16)
            run = offload(parts, policy, Memory(slots), prefetcher, profile)
            with run as model:
                generate(model, PROMPTS, args.tokens, run.meter)
            run.close()
            decode = run.meter.phases["decode"]
            speeds[number].append(decode.tokens / decode.seconds)
    for number, (policy, slots, prefetcher, load) in enumerate(CELLS):
        link = geometry.expert_bytes / (load * layer_s)
        profile = replace(here, link_bytes_per_s=link, chunk_bytes=1 << 16)
        told = simulate(trace, ExpertCache(policy, geometry, slots), prefetcher, profile)
        low, _, high = quantiles(speeds[number], n=4)
        live = median(speeds[number])
        error = told.tokens_per_second / live - 1
        errors.append(abs(error))
        spreads.append((high - low) / live)
        print(
            f"{type(policy).__name__:7} {slots:5} {type(prefetcher).__name__:10} {load:10} | "
            f"{live:8.1f} ({high - low:5.1f})  {told.tokens_per_second:8.1f}  {100 * error:+5.1f} %"
        )
    print(
        f"mean absolute error {100 * mean(errors):.1f} % over {len(errors)} held-out runs; "
        f"their own spread (IQR) is {100 * mean(spreads):.1f} %"
    )


if __name__ == "__main__":
    main()
