"""Decoding with all experts resident, against stock transformers, in interleaved pairs.

python experiments/benchmarks/spine/overhead.py [--pairs 9] [--tokens 64] [--threads 2]
"""

from functools import partial
from statistics import median

import torch

from analysis.paired import paired_ratio
from experiments.harness import arguments, in_turns
from moex.bench import baselines
from moex.bench.workload import generate
from moex.cache.lru import LRU
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.runner.meter import Meter


def main() -> None:
    """Print milliseconds a token of every way, and moex's ratio to the fastest of stock's."""
    args = arguments(
        __doc__,
        tiny={"pairs": 2, "tokens": 3},
        model="tiny",
        dtype="auto",
        pairs=9,
        tokens=64,
        threads=torch.get_num_threads(),
    )
    torch.set_num_threads(args.threads)
    loaded = load_model(args.model, args.dtype)
    prompt = [torch.arange(16, 48)[None]]

    def tpot(name: str) -> float:
        meter = Meter()
        if name != "moex":
            stock.set_experts_implementation(name)
        generate(mine if name == "moex" else stock, prompt, args.tokens, meter)
        return meter.phases["decode"].seconds / (args.tokens - 1)

    names = ("moex", *baselines.IMPLEMENTATIONS)
    resident = Setup(LRU(), Memory(loaded.geometry.experts))
    with baselines.stock(args.model, args.dtype) as stock, offload(loaded, resident) as mine:
        times = in_turns(args.pairs, {name: partial(tpot, name) for name in names})
    layers = loaded.geometry.layers
    print(f"model {args.model}, {args.threads} threads, {args.tokens - 1} tokens, batch 1")
    for name, series in times.items():
        took = median(series)
        print(f"{name:>11}: {1e3 * took:7.3f} ms a token, {1e6 * took / layers:7.1f} us a layer")
    fastest = min(names[1:], key=lambda name: median(times[name]))
    ratio = paired_ratio(times[fastest], times["moex"])
    extra = [(a - b) / layers for a, b in zip(times["moex"], times[fastest], strict=True)]
    print(f"speed against {fastest}: {ratio}")
    print(f"overhead: {1e6 * median(extra):.1f} us a layer visit (median)")


if __name__ == "__main__":
    main()
