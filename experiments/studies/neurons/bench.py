"""Experts by neurons: when rows beat whole experts, and what they buy end to end.

    python experiments/studies/neurons/bench.py density --out results/density.jsonl
    python experiments/studies/neurons/bench.py disk --out results/disk_neurons.jsonl
    python experiments/studies/neurons/bench.py surface --out results/surface.jsonl

`density` times loads of a share of an expert's neurons, scattered at random, from memory and from
files, against the whole expert: where the lines cross is `memory.break_even`. `disk` decodes from
files, neurons with that break-even against whole experts. `surface` (`surface.py`) decodes with the
bundled model behind an emulated link, at equal device bytes, and `tables.py` shows its lines. Both
decode `--prompts` different prompts and give the 95 % interval over prompts. One JSON line a case;
`--tiny` is a smoke test.
"""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from sides import Side, over_prompts, parts_of, prompts_of, turn
from surface import LOADS, SLOTS, TURNS, surface

from moex.cache.memory import Memory
from moex.calibrate import row_break_even as measured
from moex.calibrate.measure import break_evens
from moex.prefetch.gate import Gate
from moex.runner.assemble import bind_selector, load_model
from moex.runs.provenance import provenance

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = ((4096, 14336), (256, 384))
"""Hidden size and neurons of an expert: Mixtral-8x7B's, and the bundled model's."""


def density(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Seconds of a load by store, size of experts and share of neurons, and every break-even.

    `with_fallback` is the speed against whole experts if above the break-even all of an expert is
    moved: from files in the layout of its slot, from memory neuron by neuron.
    """
    repeats = 2 if args.tiny else args.repeats or 7
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
    whole = load_model("tiny", store="disk")
    neurons = load_model("tiny", store="disk", bundles=True, wholes=True)
    prompts, repeats = prompts_of(whole)[: args.prompts], args.repeats or TURNS
    if args.tiny:
        prompts, args.tokens, repeats = prompts[:2], 4, 1
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
                turn(sides, prompts[:1], args.tokens)  # warmth
                turns = []
                for number in range(repeats):
                    seconds, statistics = turn(sides, prompts, args.tokens, number)
                    turns.append(seconds)
            yield {
                "case": "disk",
                "slots": count,
                "break_even": share,
                "measured": share != 1.0,
                **over_prompts(turns),
                **statistics,
            }


def main() -> None:
    """Run what was asked for and write a line a case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["density", "disk", "surface"])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--repeats", type=int, help="turns; default 2, of density 7")
    parser.add_argument("--folder", type=Path, help="where density and disk write their files")
    parser.add_argument("--selector", choices=["corm", "oracle", "random"], default="corm")
    parser.add_argument("--mode", choices=["predicted", "late"], default="predicted")
    parser.add_argument("--fraction", type=float, default=0.3)
    parser.add_argument("--rank", type=int, help="of the selector; default: the checkpoint's")
    parser.add_argument("--coarse", choices=["mlp", "linear", "gate"], default="mlp")
    parser.add_argument("--rows", type=float, default=0.31, help="least share a thin slot holds")
    parser.add_argument("--text", help="held-out tokens (FILE.bin) or text, for the loss")
    parser.add_argument("--windows", type=int, default=16, help="of 512 tokens, for the loss")
    parser.add_argument("--prompts", type=int, default=8, choices=range(2, 9))
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
