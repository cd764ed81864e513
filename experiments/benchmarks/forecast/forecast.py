"""Calibrate on one offloaded run, forecast other live runs, and print the error.

Every turn runs the cells of policies x slots x prefetch x link in an order of its own, live behind
the emulated link at two speeds and from disk on the disk's own link, with a calibration of that
store before and after every few of them: a machine's own speed drifts by more than what is looked
for. A cell's forecast replays a recorded trace with the mean of the two calibrations around it;
nothing of the cell itself goes into it.

python experiments/benchmarks/forecast/forecast.py [--turns 5] [--tokens 24] [--threads 1] [--tiny]
"""

import itertools
import random
from argparse import Namespace
from dataclasses import replace
from statistics import mean, median, quantiles

import torch

from experiments.harness import arguments
from moex.bench.workload import generate
from moex.cache.core import ExpertCache
from moex.cache.fifo import FIFO
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.calibrate.measure import costs_of
from moex.hardware.profile import HardwareProfile
from moex.models.loader import LoadedModel, load_model
from moex.prefetch.gate import Gate
from moex.prefetch.none import NoPrefetch
from moex.runner.assemble import Setup, offload
from moex.sim.simulator import simulate
from moex.trace.format import Trace

PROMPTS = [torch.arange(16 + 97 * k, 48 + 97 * k)[None] for k in range(4)]
LINKS = {"ram": (1.0, 4.0), "disk": ("disk",)}
"""By store: layers' times that a load takes on the emulated link, or the store's own link."""
CELLS = {
    store: [
        cell
        for cell in itertools.product((LRU(), LFU(), FIFO()), (2, 4), (NoPrefetch(), Gate()), links)
        if cell != (LRU(), 4, Gate(), links[0])  # the calibration's own
    ]
    for store, links in LINKS.items()
}
COSTS = ("visit_s", "expert_s", "pass_s", "submit_s", "handover_s", "load_s", "predict_s")


def between(before: HardwareProfile, after: HardwareProfile) -> HardwareProfile:
    """The mean of two calibrations."""
    names = (*COSTS, "link_bytes_per_s", "link_latency_s")
    means = {name: mean((getattr(before, name), getattr(after, name))) for name in names}
    return replace(before, **means)


def record(loaded: LoadedModel, tokens: int) -> Trace:
    """The routing of the cells' prompts, which no cache changes."""
    recording = offload(loaded, Setup(LRU(), Memory(loaded.geometry.experts)))
    with recording as model:
        generate(model, PROMPTS, tokens, recording.meter)
    return recording.recorder.trace({})


def live(
    loaded: LoadedModel, cell: tuple, profile: HardwareProfile | None, tokens: int
) -> tuple[float, float]:
    """Tokens a second and stall share of one cell; without a profile on the store's own link."""
    policy, slots, prefetcher, _ = cell
    run = offload(loaded, Setup(policy, Memory(slots), prefetcher, profile))
    with run as model:
        generate(model, PROMPTS, tokens, run.meter)
    decode = run.meter.phases["decode"]
    return decode.tokens / decode.seconds, decode.stall_s / decode.seconds


def turns(
    loaded: LoadedModel, cells: list[tuple], trace: Trace, args: Namespace
) -> tuple[list[list[tuple[float, float]]], list[list[tuple[float, float]]]]:
    """Tokens/s and stall share of every cell, measured and simulated, by turn."""
    here, size = costs_of(loaded, args.tokens), loaded.geometry.expert_bytes
    layer_s = here.visit_s + loaded.geometry.top_k * here.expert_s
    names = ", ".join(f"{name} {1e6 * getattr(here, name):.0f} us" for name in COSTS)
    print(f"calibrated on {loaded.store.name} ({loaded.store.io}): {names}", flush=True)
    measured, simulated = ([[] for _ in cells] for _ in range(2))
    for turn in range(args.turns):
        order = random.Random(turn).sample(range(len(cells)), len(cells))
        before = costs_of(loaded, args.tokens)
        for begin in range(0, len(order), args.every):
            batch, links = order[begin : begin + args.every], {}
            for number in batch:
                slow = cells[number][-1]
                if slow != "disk":
                    links[number] = {"link_bytes_per_s": size / (slow * layer_s)}
                    links[number] |= {"link_latency_s": 0.0, "chunk_bytes": 1 << 16}
                profile = replace(here, **links[number]) if number in links else None
                measured[number].append(live(loaded, cells[number], profile, args.tokens))
            after = costs_of(loaded, args.tokens)
            for number in batch:
                policy, slots, prefetcher, _ = cells[number]
                profile = replace(between(before, after), **links.get(number, {}))
                cache = ExpertCache(policy, loaded.geometry, slots)
                report = simulate(trace, cache, prefetcher, profile)
                simulated[number].append((report.tokens_per_second or 0, report.stall_share or 0))
            before = after
    return measured, simulated


def show(cell: tuple, measured: list, simulated: list) -> tuple[float, float]:
    """Print one cell; return the absolute error and the runs' own spread."""
    policy, slots, prefetcher, load = cell
    speeds, stalls = zip(*measured, strict=True)
    forecasts, simulated_stalls = zip(*simulated, strict=True)
    low, _, high = quantiles(speeds, n=4, method="inclusive")
    error = median(t / s - 1 for t, s in zip(forecasts, speeds, strict=True))
    print(
        f"{type(policy).__name__:7} {slots:5} {type(prefetcher).__name__:10} {load:>10} | "
        f"{median(speeds):9.1f} ({high - low:4.1f}) {median(stalls):5.0%} | "
        f"{median(forecasts):8.1f} {median(simulated_stalls):5.0%}  {100 * error:+5.1f} %"
    )
    return abs(error), (high - low) / median(speeds)


def main() -> None:
    """Print every cell, and the mean absolute error of every store's."""
    args = arguments(
        __doc__,
        tiny={"turns": 2, "tokens": 4},
        turns=5,
        tokens=24,
        threads=1,
        every=(4, "cells between two calibrations"),
        stores=(list(LINKS), "", LINKS),
    )
    torch.set_num_threads(args.threads)
    trace = record(load_model("tiny"), args.tokens)
    for store in args.stores:
        cells = CELLS[store][:3] if args.tiny else CELLS[store]
        measured, simulated = turns(load_model("tiny", store=store), cells, trace, args)
        print(
            "policy  slots prefetch   load/layer | live tok/s (IQR) stall | forecast stall  error"
        )
        shown = [show(*row) for row in zip(cells, measured, simulated, strict=True)]
        error, spread = (mean(values) for values in zip(*shown, strict=True))
        bar = max(0.10, 2 * spread)
        print(
            f"{store}: mean absolute error {100 * error:.1f} % over {len(cells)} held-out runs, "
            f"each the median of {args.turns} turns; their own spread (IQR) is {100 * spread:.1f} "
            f"%; bar {100 * bar:.0f} %: {'met' if error <= bar else 'missed'}\n"
        )


if __name__ == "__main__":
    main()
