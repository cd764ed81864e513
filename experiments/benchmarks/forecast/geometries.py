"""Calibrate on one model, forecast decoding of another geometry, and print the error.

Both models have random weights in bfloat16, of the true sizes of a layer, and few layers. Costs are
fitted to one offloaded run of the first (`mode=calibrate`), once for each store, and scaled to the
second (`HardwareProfile.on`). Its cells are slots x prefetcher x store: experts in memory cross an
emulated link of `--link` bytes/s, experts on disk the disk's own. Of the second model a forecast
takes the routing and the sizes, and no time. Needs an idle host, 24 GB and 20 GB of disk.

python experiments/benchmarks/forecast/geometries.py [--fit olmoe] [--target qwen3] [--tiny]
"""

import gc
import itertools
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch

from experiments.harness import arguments, emit, table
from moex.bench.workload import generate
from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.calibrate.measure import costs_of
from moex.hardware.profile import HardwareProfile
from moex.models.loader import LoadedModel, load_model
from moex.models.memory_needs import bytes_read
from moex.prefetch.base import Prefetcher
from moex.prefetch.gate import Gate
from moex.prefetch.none import NoPrefetch
from moex.runner.assemble import Setup, offload
from moex.sim.simulator import simulate
from moex.trace.format import Trace

SHAPES: dict[str, dict[str, Any]] = {
    "olmoe": {
        "model_type": "olmoe",
        "hidden_size": 2048,
        "intermediate_size": 1024,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 3,
    },
    "qwen3": {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 2,
    },
    "mixtral": {
        "model_type": "mixtral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 2,
    },
}
SMALL = {"hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 48, "head_dim": 4}
STORES, SLOTS, PREFETCHERS = ("ram", "disk"), (0.25, 0.5, 0.75), (NoPrefetch(), Gate())
BAR = 0.15
HEAD = ("store", "slots", "prefetch", "live", "forecast", "error")
Cell = tuple[float, Prefetcher]


def load(name: str, store: str, folder: Path, tiny: bool) -> LoadedModel:
    """Make a model with random weights."""
    shape = SHAPES[name] | {"vocab_size": 32000, "dtype": "bfloat16", "tie_word_embeddings": False}
    if tiny:
        shape |= {key: value for key, value in SMALL.items() if key in shape} | {"vocab_size": 512}
    gc.collect()
    return load_model(name, store=store, cache_dir=folder, architecture=shape)


def live(
    loaded: LoadedModel, cell: Cell, profile: HardwareProfile | None, tokens: int
) -> tuple[float, Trace]:
    """Tokens a second of one cell, and its routing."""
    slots, prefetcher = cell
    run = offload(loaded, Setup(LRU(), Memory(slots), prefetcher, profile))
    prompts = [torch.arange(16 + 97 * k, 32 + 97 * k)[None] for k in range(2)]
    with run as model:
        generate(model, prompts, tokens, run.meter)
        run.finish()
    decode = run.meter.phases["decode"]
    return decode.tokens / decode.seconds, run.recorder.trace({})


def forecast(trace: Trace, cell: Cell, profile: HardwareProfile) -> float:
    """Simulated tokens a second of one cell."""
    slots, prefetcher = cell
    memory = Memory(slots).resolve(trace.geometry)
    cache = ExpertCache(LRU(), trace.geometry, memory)
    return simulate(trace, cache, prefetcher, profile).tokens_per_second or 0.0


def main() -> None:
    """Print every cell, and the mean absolute error."""
    args = arguments(
        __doc__,
        tiny={"turns": 1, "tokens": 4, "link": 1e8},
        fit=("olmoe", "the model that is calibrated on", SHAPES),
        target=("qwen3", "the model that is forecast", SHAPES),
        link=(2e9, "bytes/s of the emulated link"),
        turns=(2, "live runs of every cell; the median counts"),
        tokens=16,
        threads=1,
        folder=Path(tempfile.gettempdir()) / "moex-geometries",
        out=(None, "append the rows to this file", Path),
    )
    torch.set_num_threads(args.threads)
    rows = []
    for store in STORES:
        fitted = costs_of(load(args.fit, store, args.folder, args.tiny), args.tokens)
        loaded = load(args.target, store, args.folder, args.tiny)
        read = bytes_read(loaded.model, loaded.geometry.layers, loaded.skeleton_bytes)
        here = fitted.on(loaded.geometry, **read)
        link = None
        if store == "ram":
            link = HardwareProfile("emulated", args.link, chunk_bytes=1 << 20)
            here = replace(
                here, link_bytes_per_s=args.link, link_latency_s=0.0, chunk_bytes=1 << 20
            )
        for profile in (fitted, here):
            visit_s, expert_s, pass_s = profile.visit_s, profile.expert_s, profile.pass_s
            costs = f"visit {visit_s:.2e} s, expert {expert_s:.2e} s, pass {pass_s:.2e} s"
            latency_s, speed = profile.link_latency_s, profile.link_bytes_per_s or 0.0
            print(f"{store}: {costs}, link {latency_s:.2e} s + bytes / {speed:.2e} bytes/s")
        for cell in itertools.product(SLOTS, PREFETCHERS):
            runs = [live(loaded, cell, link, args.tokens) for _ in range(args.turns)]
            measured = median(speed for speed, _ in runs)
            expected = forecast(runs[0][1], cell, here)
            named = (store, cell[0], type(cell[1]).__name__)
            rows.append((*named, measured, expected, expected / measured - 1))
            if args.out:
                cells = dict(zip(HEAD, rows[-1], strict=True))
                emit({"fit": args.fit, "target": args.target, **cells}, args.out)
        del loaded
    table(HEAD, rows)
    error = mean(abs(row[-1]) for row in rows)
    print(
        f"\n{args.fit} to {args.target}: mean absolute error {error:.1%} over {len(rows)} cells; "
        f"bar {BAR:.0%}: {'met' if error <= BAR else 'missed'}"
    )


if __name__ == "__main__":
    main()
