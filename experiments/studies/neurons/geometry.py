"""Neurons of a large model's experts, read from files: random weights, a recorded routing.

    python experiments/studies/neurons/geometry.py --layers 2 --out results/geometry.jsonl

Whole experts and neurons in thin slots decode in turns, at equal device bytes, both from files.
Which neurons count is random for every token and expert: what one token leaves in the cache helps
the next no more than chance, so no trained selector would move more. `--tiny` is a
smoke test. Packing takes 5.6 GB a layer of Mixtral-8x7B's size, once, in `--folder`.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
import yaml
from sides import Side, equal_bytes

from analysis.paired import in_turns, paired_ratio
from experiments.harness import ROOT, arguments, emit
from moex.cache.memory import Memory
from moex.paths import cache_folder
from moex.prefetch.none import NoPrefetch
from moex.runner.assemble import bind_selector, load_model
from moex.runner.routing_replay import read_routing
from moex.sparsity.base import NeuronSelector

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor

    from moex.runner.assemble import LoadedModel
    from moex.types import Geometry

SMALL = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 512}


@dataclass
class RandomNeurons(NeuronSelector):
    """Neurons uniformly at random, for every token and expert anew."""

    fraction: float = 0.3
    mode: str = "late"

    def bind(self, geometry: Geometry, model: Path, weights: Any = None) -> None:
        """Remember how many neurons an expert has."""
        self._width = geometry.intermediate
        self._draw = torch.Generator().manual_seed(0)

    def select(self, hidden: Tensor, layer: int, experts: Sequence[int]) -> Tensor:
        """Return a random mask [experts, tokens, intermediate]."""
        scores = torch.rand(len(experts), len(hidden), self._width, generator=self._draw)
        chosen = scores.topk(round(self.fraction * self._width)).indices
        return torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, chosen, value=True)


def loaded(args: Namespace, *, bundles: bool) -> LoadedModel:
    """The model of random weights, packed into files once in either layout."""
    config = yaml.safe_load((ROOT / "conf" / "model" / f"{args.model}.yaml").read_text())
    shapes = {**config["architecture"], "num_hidden_layers": args.layers}
    if args.tiny:
        shapes |= SMALL
    folder = args.folder or cache_folder().expanduser() / "true_geometry"
    given = {"architecture": shapes, "bundles": bundles, "cache_dir": folder}
    return load_model(f"random-{args.model}", store="disk", **given)


def compared(args: Namespace) -> dict[str, Any]:
    """Seconds a decoded token of both sides, in turns."""
    torch.set_num_threads(args.threads)
    whole, neurons = loaded(args, bundles=False), loaded(args, bundles=True)
    for each in (whole, neurons):
        each.store.verify()  # type: ignore[attr-defined]  # not while timing
    selector, geometry = RandomNeurons(args.fraction), whole.geometry
    bind_selector(neurons, selector)
    thin = replace(equal_bytes(neurons, args.slots, args.rows, 0), break_even=args.break_even)
    prompts = [torch.randint(whole.model.config.vocab_size, (1, 2))]
    with ExitStack() as stack:
        made = (
            ("whole", whole, Memory(args.slots), NoPrefetch(), None),
            ("neurons", neurons, thin, NoPrefetch(), selector),
        )
        sides = [Side(stack, *each, routing=read_routing(args.routing, geometry)) for each in made]
        ways = (partial(side.seconds, prompts, args.tokens) for side in sides)
        times = in_turns(args.repeats, *ways)
        gain = paired_ratio(*times)
        found = {**sides[0].statistics(), **sides[1].statistics()}
    return {
        "case": "geometry",
        **{"model": args.model, "layers": args.layers, "fraction": args.fraction},
        **{"random_weights": True, "replayed_routing": True, "io": neurons.store.io},
        **{f"{side.name}_s": median(took) for side, took in zip(sides, times, strict=True)},
        **{"speedup": gain.median, "low": gain.low, "high": gain.high, "pairs": gain.pairs},
        **{"tokens": args.tokens, "rows": thin.rows, "slots": args.slots, **found},
    }


def main() -> None:
    """Measure and write a line."""
    args = arguments(
        __doc__,
        tiny={"tokens": 4, "repeats": 2},
        model="mixtral_8x7b",
        layers=2,
        slots=(3, "of whole experts, a layer"),
        fraction=0.3,
        rows=(0.31, "least share a thin slot holds"),
        break_even=(1.0, "of bench.py density"),
        routing="tiny",
        tokens=12,
        repeats=7,
        threads=1,
        folder=(None, "where the records are; default: the cache"),
        out=None,
    )
    emit(compared(args), args.out)


if __name__ == "__main__":
    main()
