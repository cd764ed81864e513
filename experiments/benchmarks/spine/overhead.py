"""Decoding with all experts resident, against stock transformers, in interleaved pairs.

python experiments/benchmarks/spine/overhead.py [--pairs 9] [--tokens 64] [--threads 2]
"""

import argparse

import torch

from analysis.paired import paired_ratio
from moex.bench import baselines
from moex.bench.workload import generate
from moex.cache.lru import LRU
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.runner.meter import Meter


def main() -> None:
    """Print milliseconds a token of every way, and moex's ratio to the fastest of stock's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    loaded = load_model(args.model, args.dtype)
    prompt = [torch.arange(16, 48)[None]]

    def tpot(model: torch.nn.Module) -> float:
        meter = Meter()
        generate(model, prompt, args.tokens, meter)
        return meter.phases["decode"].seconds / (args.tokens - 1)

    times: dict[str, list[float]] = {"moex": []}
    with baselines.stock(args.model, args.dtype) as stock:
        offloaded = offload(loaded, Setup(LRU(), Memory(loaded.geometry.experts)))
        for turn in range(-2, args.pairs):
            with offloaded as model:
                took = {"moex": tpot(model)}
            for name in baselines.IMPLEMENTATIONS:
                stock.set_experts_implementation(name)
                took[name] = tpot(stock)
            for name, seconds in took.items():
                if turn >= 0:
                    times.setdefault(name, []).append(seconds)
    layers = loaded.geometry.layers
    print(f"model {args.model}, {args.threads} threads, {args.tokens - 1} tokens, batch 1")
    for name, series in times.items():
        middle = sorted(series)[len(series) // 2]
        print(
            f"{name:>11}: {1e3 * middle:7.3f} ms a token, {1e6 * middle / layers:7.1f} us a layer"
        )
    stock_names = [name for name in times if name != "moex"]
    fastest = min(stock_names, key=lambda name: sorted(times[name])[len(times[name]) // 2])
    ratio = paired_ratio(times[fastest], times["moex"])
    extra = [(a - b) / layers for a, b in zip(times["moex"], times[fastest], strict=True)]
    print(f"speed against {fastest}: {ratio}")
    print(f"overhead: {1e6 * sorted(extra)[len(extra) // 2]:.1f} us a layer visit (median)")


if __name__ == "__main__":
    main()
