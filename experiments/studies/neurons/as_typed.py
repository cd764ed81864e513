"""`prefetch=corm` as a user types it, against `prefetch=gate`: same slots, or equal bytes.

    python experiments/studies/neurons/as_typed.py stores --out results/as_typed.jsonl
    python experiments/studies/neurons/as_typed.py scale_model --out results/as_typed.jsonl

`stores` decodes from disk and from memory on this machine's own link, in turns until the 95 %
half-width is 3 %: here computing limits. `scale_model` decodes behind the link of
`hardware=scale_model`, with as many slots and at equal device bytes (thin slots in the bytes that
the predictor leaves), and gives the interval over prompts.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from sides import Side, equal_bytes, over_prompts, prompts_of, turn

from analysis.paired import paired_ratio
from experiments.harness import arguments, emit
from moex.cache.memory import Memory
from moex.calibrate.scale_model import resolve
from moex.hardware.scale_model import ScaleModel
from moex.paths import cache_folder
from moex.prefetch.corm import Corm as Fetch
from moex.prefetch.gate import Gate
from moex.prefetch.mlp import MLP
from moex.runner.assemble import load_model
from moex.sparsity.corm import Corm

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

SLOTS = 4
HALF_WIDTH = 0.03


def stores(args: Namespace) -> Iterator[dict[str, Any]]:
    """A row a store: speed of corm over gate with half of the experts in slots."""
    for store in ("disk", "ram"):
        whole = load_model("tiny", store=store)
        selector = Corm()
        by_neuron = {"bundles": True, "break_even": None, "fraction": selector.share}
        neurons = load_model("tiny", store=store, **by_neuron)
        prompts = prompts_of(whole)[: args.prompts]
        with ExitStack() as stack:
            sides = [
                Side(stack, "whole", whole, Memory(SLOTS), Gate(), None, governor=True),
                Side(
                    stack, "neurons", neurons, Memory(SLOTS), Fetch(MLP()), selector, governor=True
                ),
            ]
            turn(sides, prompts[:1], args.tokens)  # warmth
            pairs: list[list[float]] = []
            while len(pairs) < args.most:
                seconds, statistics = turn(sides, prompts, args.tokens, len(pairs))
                pairs.append([sum(side) for side in zip(*seconds, strict=True)])
                if len(pairs) >= min(7, args.most):
                    ratio = paired_ratio(*zip(*pairs, strict=True))
                    if (ratio.high - ratio.low) / 2 <= HALF_WIDTH:
                        break
            moved = sides[1].run.cache.by_rows
        yield {
            "case": store,
            "slots": SLOTS,
            "rows_moved": moved,
            "break_even": neurons.break_even,
            **{"speedup": ratio.median, "low": ratio.low, "high": ratio.high, "pairs": ratio.pairs},
            **statistics,
        }
        whole.store.close()
        neurons.store.close()


def scale_model(args: Namespace) -> Iterator[dict[str, Any]]:
    """A row a way of sharing memory: speed of corm over gate, interval over prompts."""
    link = resolve(ScaleModel(), "tiny", cache=cache_folder().expanduser())
    whole = load_model("tiny", store="ram")
    neurons = load_model("tiny", store="ram", bundles=True)
    prompts = prompts_of(whole)[: args.prompts]
    for mode, memory in (("late", None), ("predicted", "equal bytes")):
        selector, prefetcher = Corm(mode=mode), Fetch(MLP())
        with ExitStack() as stack:
            gate = Side(stack, "whole", whole, Memory(SLOTS), Gate(), None, link, governor=True)
            setting = Memory(SLOTS)
            if memory:
                selector.bind(whole.geometry, neurons.folder)
                prefetcher.bind(whole.geometry, neurons.folder, selector)
                spent = selector.device_bytes + prefetcher.device_bytes
                setting = equal_bytes(neurons, SLOTS, args.rows, spent)
            parts = setting, prefetcher, selector, link
            corm = Side(stack, "neurons", neurons, *parts, governor=True)
            turn([gate, corm], prompts[:1], args.tokens)  # warmth
            turns = []
            for number in range(args.repeats):
                seconds, statistics = turn([gate, corm], prompts, args.tokens, number)
                turns.append(seconds)
        yield {
            "case": link.name,
            "emulated": True,
            "layers_a_load": link.load_layers,
            "slots": SLOTS,
            "memory": memory or "same slots",
            "rows": setting.rows,
            "mode": mode,
            **over_prompts(turns),
            **statistics,
        }


def main() -> None:
    """Run a part and write a line a case."""
    args = arguments(
        __doc__,
        "stores",
        "scale_model",
        tiny={"prompts": 2, "tokens": 4, "repeats": 1, "most": 2},
        out=None,
        prompts=(8, "", range(2, 9)),
        tokens=24,
        repeats=2,
        most=(30, "turns at most"),
        rows=(0.31, "least share of an expert that a thin slot holds"),
        threads=1,
    )
    torch.set_num_threads(args.threads)
    for row in {"stores": stores, "scale_model": scale_model}[args.part](args):
        emit(row, args.out)


if __name__ == "__main__":
    main()
