"""Calibrate on one offloaded run, forecast other runs live, and say how wrong that was.

Every turn runs the cells of policies x slots x prefetch x link speed in an order of its own, live
behind the emulated link, with a calibration before and after every few of them: a machine's own
speed drifts by more than what is looked for. A cell's forecast replays a recorded trace with the
mean of the two calibrations around it; nothing of the cell itself goes into it.

python experiments/07_forecast/forecast.py [--turns 7] [--tokens 24] [--threads 1] [--tiny]
"""

import argparse
import itertools
import random
from dataclasses import replace
from statistics import mean, median, quantiles

import torch

from moex.cache.capacity import Memory
from moex.cache.core import ExpertCache
from moex.cache.fifo import FIFO
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.prefetch.gate import Gate
from moex.prefetch.none import NoPrefetch
from moex.runner.assemble import Setup, offload
from moex.runner.calibrate import calibrate
from moex.runner.parts import Parts, load_parts
from moex.runner.workload import generate
from moex.sim.hardware import HardwareProfile
from moex.sim.simulator import simulate
from moex.trace.format import Trace

PROMPTS = [torch.arange(16 + 97 * k, 48 + 97 * k)[None] for k in range(4)]
CELLS = list(itertools.product((LRU(), LFU(), FIFO()), (2, 4), (NoPrefetch(), Gate()), (1.0, 4.0)))
HELD_OUT = [cell for cell in CELLS if cell[:2] != (CELLS[0][0], 4) or cell[2:] != (Gate(), 1.0)]
COSTS = ("visit_s", "expert_s", "pass_s", "submit_s", "load_s", "predict_s")


def between(before: HardwareProfile, after: HardwareProfile) -> HardwareProfile:
    """The mean of two calibrations."""
    means = {name: mean((getattr(before, name), getattr(after, name))) for name in COSTS}
    return replace(before, **means)


def record(parts: Parts, tokens: int) -> Trace:
    """The routing of the cells' prompts, which no cache changes."""
    recording = offload(parts, Setup(LRU(), Memory(parts.geometry.experts)))
    with recording as model:
        generate(model, PROMPTS, tokens, recording.meter)
    return recording.recorder.trace({})


def live(parts: Parts, cell: tuple, profile: HardwareProfile, tokens: int) -> tuple[float, float]:
    """Tokens a second and stall share of one cell."""
    policy, slots, prefetcher, _ = cell
    run = offload(parts, Setup(policy, Memory(slots), prefetcher, profile))
    with run as model:
        generate(model, PROMPTS, tokens, run.meter)
    decode = run.meter.phases["decode"]
    return decode.tokens / decode.seconds, decode.stall_s / decode.seconds


def main() -> None:
    """Print every cell, and the mean absolute error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--every", type=int, default=4, help="cells between two calibrations")
    parser.add_argument("--tiny", action="store_true", help="see that it runs; says nothing")
    args = parser.parse_args()
    cells = HELD_OUT
    if args.tiny:
        args.turns, args.tokens, cells = 2, 4, HELD_OUT[:3]
    torch.set_num_threads(args.threads)
    parts = load_parts("tiny")
    geometry, here, trace = (
        parts.geometry,
        calibrate(parts, args.tokens),
        record(parts, args.tokens),
    )
    layer_s = here.visit_s + geometry.top_k * here.expert_s
    names = ", ".join(f"{name} {1e6 * getattr(here, name):.0f} us" for name in COSTS)
    print(f"calibrated: {names}", flush=True)
    measured: dict[int, list[tuple[float, float]]] = {n: [] for n in range(len(cells))}
    forecasts: dict[int, list[tuple[float, float]]] = {n: [] for n in range(len(cells))}
    for turn in range(args.turns):
        order = random.Random(turn).sample(range(len(cells)), len(cells))
        before = calibrate(parts, args.tokens)
        for begin in range(0, len(order), args.every):
            batch, links = order[begin : begin + args.every], {}
            for number in batch:
                links[number] = geometry.expert_bytes / (cells[number][3] * layer_s)
                profile = replace(here, link_bytes_per_s=links[number], chunk_bytes=1 << 16)
                measured[number].append(live(parts, cells[number], profile, args.tokens))
            after = calibrate(parts, args.tokens)
            for number in batch:
                policy, slots, prefetcher, _ = cells[number]
                profile = replace(
                    between(before, after), link_bytes_per_s=links[number], chunk_bytes=1 << 16
                )
                cache = ExpertCache(policy, geometry, slots)
                told = simulate(trace, cache, prefetcher, profile)
                forecasts[number].append((told.tokens_per_second or 0, told.stall_share or 0))
            before = after
    errors, spreads = [], []
    print("policy  slots prefetch   load/layer | live tok/s (IQR) stall | forecast stall  error")
    for number, (policy, slots, prefetcher, load) in enumerate(cells):
        speeds, stalls = zip(*measured[number], strict=True)
        told, told_stalls = zip(*forecasts[number], strict=True)
        low, _, high = quantiles(speeds, n=4, method="inclusive")
        error = median(t / s - 1 for t, s in zip(told, speeds, strict=True))
        errors.append(abs(error))
        spreads.append((high - low) / median(speeds))
        print(
            f"{type(policy).__name__:7} {slots:5} {type(prefetcher).__name__:10} {load:10} | "
            f"{median(speeds):9.1f} ({high - low:4.1f}) {median(stalls):5.0%} | "
            f"{median(told):8.1f} {median(told_stalls):5.0%}  {100 * error:+5.1f} %"
        )
    bar = max(0.10, 2 * mean(spreads))
    print(
        f"mean absolute error {100 * mean(errors):.1f} % over {len(errors)} held-out runs, each "
        f"the median of {args.turns} turns; their own spread (IQR) is {100 * mean(spreads):.1f} %; "
        f"bar {100 * bar:.0f} %: {'met' if mean(errors) <= bar else 'missed'}"
    )


if __name__ == "__main__":
    main()
