"""Experts by neurons: when rows beat whole experts, and what they buy end to end.

    python experiments/16_neurons/bench.py density --out results/density.jsonl
    python experiments/16_neurons/bench.py disk --out results/disk_neurons.jsonl
    python experiments/16_neurons/bench.py surface --out results/surface.jsonl

`density` times loads of a share of an expert's neurons, scattered at random, from memory and from
files, against the whole expert: where the lines cross is `memory.break_even`. `disk` decodes from
files, neurons with that break-even against whole experts. `surface` decodes
with the bundled model behind an emulated link, at equal device bytes (predictor included) and in
interleaved turns: whole experts with LRU and gate lookahead against neurons in thin places. One
JSON line a case; `--tiny` is a smoke test.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import mean, median, stdev
from typing import TYPE_CHECKING, Any

import torch
from sides import Side, equal_bytes, parts_of, prompts_of

from moex.cache.capacity import Memory
from moex.cache.lru import LRU
from moex.paired import in_turns, paired_ratio
from moex.prefetch.gate import Gate
from moex.prefetch.none import NoPrefetch
from moex.provenance import provenance
from moex.runner import density as measured
from moex.runner.assemble import Setup, bind_selector, load_parts, offload
from moex.runner.calibrate import break_evens
from moex.sim.hardware import HardwareProfile
from moex.train.data import corpus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moex.runner.assemble import Parts

ROOT = Path(__file__).parents[2]
SIZES = ((4096, 14336), (256, 384))
"""Hidden size and neurons of an expert: Mixtral-8x7B's, and the bundled model's."""
LOADS = (0.5, 1, 2, 4, 8)
SLOTS = (2, 3, 4)
DRIFT, TRIES = 0.1, 4
"""A cell is measured again if a layer takes longer or less by this share after it than before."""


def density(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Seconds of a load by store, size of experts and share of neurons, and every break-even.

    `with_fallback` is the speed against whole experts if above the break-even all of an expert is
    moved: from files as its place has it, from memory as it lies, neuron by neuron.
    """
    repeats = 2 if args.tiny else args.repeats
    for hidden, neurons in ((64, 96),) if args.tiny else SIZES:
        tensors = {
            "gate_up_proj": ((2 * neurons, hidden), torch.bfloat16),
            "down_proj": ((hidden, neurons), torch.bfloat16),
        }
        for pair in measured.pairs(tensors, args.folder):
            base = {"case": "density", "store": pair.name, "io": pair.rows.io}
            base |= {"hidden": hidden, "neurons": neurons, "expert_bytes": pair.rows.layout.bytes}
            seconds = measured.measure(pair, repeats)
            whole = seconds.pop(0.0)
            crossing = measured.break_even({0.0: whole, **seconds}, neurons)
            ratios = [pair.whole_s(turn) / pair.all_s(turn) for turn in range(2 * repeats + 1)][1:]
            every = whole / median(ratios)
            worst = whole / max([every, *(s for n, s in seconds.items() if n < crossing)])
            for share, took in seconds.items():
                chosen = took if share < crossing else every
                row = {"share": share, "seconds": took, "against_whole": took / whole}
                yield {**base, **row, "with_fallback": whole / chosen}
            found = {"whole_s": whole, "break_even": crossing, "worst_with_fallback": worst}
            yield {**base, **found, "fallback": sorted(ratios)}


def disk(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Decode from files: neurons with the measured break-even against whole experts, in turns."""
    torch.set_num_threads(args.threads)
    whole = load_parts("tiny", store="disk")
    neurons = load_parts("tiny", store="disk", bundles=True, wholes=True)
    prompts = prompts_of(whole)[: args.prompts]
    if args.tiny:
        prompts, args.tokens, args.repeats = prompts[:1], 4, 2
    shares = break_evens(whole, args.folder)
    assert shares is not None
    crossing = shares["disk"]
    for count in (3,) if args.tiny else args.slots:
        for share in (crossing, 1.0):  # with the fallback, and without
            selector, prefetcher = parts_of(args)
            bind_selector(neurons, selector)
            memory = Memory(count, store="disk", break_even=share)
            with ExitStack() as stack:
                sides = [
                    Side(stack, "whole", whole, Memory(count), Gate(), None, None),
                    Side(stack, "neurons", neurons, memory, prefetcher, selector, None),
                ]
                found = compared(sides, prompts, args)
            yield {
                "case": "disk",
                "slots": count,
                "break_even": share,
                "measured": share != 1.0,
                **found,
            }


def surface(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Speed of neurons against whole experts, by load time and slots; the ceiling of each."""
    torch.set_num_threads(args.threads)
    whole, neurons = load_parts("tiny"), load_parts("tiny", bundles=True, store="ram")
    prompts = prompts_of(whole)[: args.prompts]
    if args.tiny:
        prompts, args.tokens, args.repeats, args.windows = prompts[:1], 4, 2, 1
    geometry = whole.geometry
    lost = _loss(whole, neurons, args) if args.text else {}
    loads, slots = ((4.0,), (3,)) if args.tiny else (args.loads, args.slots)
    for ratio in (*loads, 0.0):  # last without any load time: the ceiling
        for count in slots:
            selector, prefetcher = parts_of(args)
            bind_selector(neurons, selector)
            prefetcher.bind(geometry, neurons.folder, selector)
            spent = selector.device_bytes + prefetcher.device_bytes
            thin = equal_bytes(neurons, count, args.rows, spent)
            for _ in range(1 if args.tiny else TRIES):  # until the machine's speed is what it was
                layer_s = _layer_s(whole, prompts, args)
                speed = geometry.expert_bytes / (ratio * layer_s) if ratio else float("inf")
                link = HardwareProfile("emulated", link_bytes_per_s=speed, chunk_bytes=1 << 16)
                with ExitStack() as stack:
                    sides = [
                        Side(stack, "whole", whole, Memory(count), Gate(), None, link),
                        Side(stack, "neurons", neurons, thin, prefetcher, selector, link),
                    ]
                    found = compared(sides, prompts, args)
                after = _layer_s(whole, prompts, args)
                drift = max(layer_s, after) / min(layer_s, after) - 1
                if drift <= DRIFT:
                    break
            assert found["neurons_device_bytes"] <= found["whole_device_bytes"]
            yield {
                "case": "surface",
                "emulated": True,
                "load_over_layer": ratio,
                "slots": count,
                "layer_s": layer_s,
                "drift": drift,
                "selector": args.selector,
                "coarse": args.coarse if args.selector == "corm" else None,
                "mode": args.mode,
                "rank": args.rank,
                "fraction": args.fraction,
                "rows": thin.rows,
                **found,
                "predictor_share": spent / found["neurons_device_bytes"],
                **lost,
            }


def compared(
    sides: list[Side], prompts: list[torch.Tensor], args: argparse.Namespace
) -> dict[str, Any]:
    """Seconds of both sides, measured in turns; their ratio, and what their books say."""
    times = in_turns(args.repeats, *(partial(side.seconds, prompts, args.tokens) for side in sides))
    gain = paired_ratio(*times)
    return {
        **{f"{side.name}_s": median(took) for side, took in zip(sides, times, strict=True)},
        **{"speedup": gain.median, "low": gain.low, "high": gain.high, "pairs": gain.pairs},
        **sides[0].books(),
        **sides[1].books(),
    }


def _layer_s(parts: Parts, prompts: list[torch.Tensor], args: argparse.Namespace) -> float:
    """Seconds of a layer now, with all experts there."""
    with ExitStack() as stack:
        every = Memory(parts.geometry.experts)
        full = Side(stack, "full", parts, every, NoPrefetch(), None, None)
        full.seconds(prompts, args.tokens)
        passes = [full.seconds(prompts, args.tokens, empty=False) for _ in range(args.repeats)]
    return median(passes) / parts.geometry.layers


@torch.inference_mode()
def _loss(whole: Parts, neurons: Parts, args: argparse.Namespace) -> dict[str, Any]:
    """Held-out nats a token, masked against dense, as `mode=eval` runs them: masks in prefill."""
    selector, _ = parts_of(args)
    selector.prefill = "masked"
    memory = Memory(whole.geometry.experts)
    with tempfile.TemporaryDirectory(prefix="moex-loss-") as folder:
        text = corpus(args.text, whole.tokenizer(), Path(folder), 512, 10**9, 0)
        windows = [torch.from_numpy(text.batch(n, 1, held_out=True)) for n in range(args.windows)]
    nats = []
    for parts, chosen in ((whole, None), (neurons, selector)):
        with offload(parts, Setup(LRU(), memory, selector=chosen)) as model:
            nats.append([_nats(model, window) for window in windows])
    apart = [masked - dense for dense, masked in zip(*nats, strict=True)]
    return {
        "loss_dense_nats": mean(nats[0]),
        "loss_apart_nats": mean(apart),
        "loss_apart_stderr": stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else None,
        "loss_windows": len(apart),
    }


def _nats(model: Any, window: torch.Tensor) -> float:
    logits = model(window[:, :-1], use_cache=False).logits
    return float(torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), window[0, 1:]))


def main() -> None:
    """Run what was asked for and write a line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["density", "disk", "surface"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where density and disk write their files")
    parser.add_argument("--selector", choices=["corm", "oracle", "random"], default="corm")
    parser.add_argument("--mode", choices=["predicted", "late"], default="predicted")
    parser.add_argument("--fraction", type=float, default=0.3)
    parser.add_argument("--rank", type=int, help="of the selector; default: the checkpoint's")
    parser.add_argument("--coarse", choices=["mlp", "linear", "gate"], default="mlp")
    parser.add_argument("--rows", type=float, default=0.31, help="least share a thin place holds")
    parser.add_argument("--text", help="held-out tokens (FILE.bin) or text, for the loss")
    parser.add_argument("--windows", type=int, default=16, help="of 512 tokens, for the loss")
    parser.add_argument("--prompts", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--loads", type=float, nargs="+", default=LOADS)
    parser.add_argument("--slots", type=int, nargs="+", default=SLOTS)
    args = parser.parse_args()
    with ExitStack() as stack:
        if args.out:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            out = stack.enter_context(args.out.open("w"))
        for row in {"density": density, "disk": disk, "surface": surface}[args.what](args):
            print(line := json.dumps({**row, **provenance()}), flush=True)
            if args.out:
                print(line, file=out, flush=True)


if __name__ == "__main__":
    main()
