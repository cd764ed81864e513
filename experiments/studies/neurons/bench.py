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

from contextlib import ExitStack
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from sides import Side, over_prompts, parts_of, prompts_of, turn
from surface import LOADS, SLOTS, TURNS, surface

from experiments.harness import arguments, emit
from moex.cache.memory import Memory
from moex.calibrate.measure import break_evens
from moex.prefetch.gate import Gate
from moex.runner.assemble import bind_selector, load_model
from moex.store import row_break_even as measured

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

SIZES = ((4096, 14336), (256, 384))
"""Hidden size and neurons of an expert: Mixtral-8x7B's, and the bundled model's."""


def density(args: Namespace) -> Iterator[dict[str, Any]]:
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


def disk(args: Namespace) -> Iterator[dict[str, Any]]:
    """Decode from files: neurons with the measured break-even against whole experts, in turns."""
    torch.set_num_threads(args.threads)
    whole = load_model("tiny", store="disk")
    neurons = load_model("tiny", store="disk", bundles=True, break_even=0.5)
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
    args = arguments(
        __doc__,
        "density",
        "disk",
        "surface",
        out=None,
        repeats=(None, "turns; default 2, of density 7"),
        folder=(None, "where density and disk write their files"),
        selector=("corm", "", ["corm", "oracle", "random"]),
        mode=("predicted", "", ["predicted", "late"]),
        fraction=0.3,
        rank=(None, "of the selector; default: the checkpoint's", int),
        coarse=("mlp", "", ["mlp", "linear", "gate"]),
        rows=(0.31, "least share a thin slot holds"),
        text=(None, "held-out tokens (FILE.bin) or text, for the loss"),
        windows=(16, "of 512 tokens, for the loss"),
        prompts=(8, "", range(2, 9)),
        tokens=24,
        threads=1,
        loads=list(LOADS),
        slots=list(SLOTS),
    )
    for row in {"density": density, "disk": disk, "surface": surface}[args.part](args):
        emit(row, args.out)


if __name__ == "__main__":
    main()
