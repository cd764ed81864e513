"""Record which rows decoding text needs, and what predictors predict: traces for simulated studies.

    python experiments/studies/two_level/record.py --text TOKENS.bin --out FOLDER [--tiny]

The bundled model reads text token by token with `sparsity=corm`, and every visit's rows are kept,
once for each mode: `late.parquet`, `predicted.parquet`. Their predictions are those of
`prefetch=corm`; the same visits with other predictors of experts (rows of the same selector) are
in `MODE-gate.parquet` and `MODE-random.parquet`. Last, a few tokens are decoded in thin slots, and
the plans of that run are compared with those of a replay of its trace.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from experiments.harness import arguments
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.cache.variants.row_cache import RowCache
from moex.prefetch.base import Observation, Prefetcher
from moex.prefetch.corm import Corm as Fetch
from moex.prefetch.gate import Gate
from moex.prefetch.mlp import MLP
from moex.prefetch.random import Random
from moex.prefetch.recorded import Recorded
from moex.runner.assemble import Setup, load_model, offload
from moex.runs.provenance import provenance
from moex.sim.simulator import simulate
from moex.sparsity.corm import Corm
from moex.trace.format import write_trace
from moex.train.data import corpus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.models.loader import LoadedModel
    from moex.types import Geometry, Plan, Prediction


class RandomExperts(Fetch):
    """Experts uniformly at random, their rows by the run's selector."""

    def __post_init__(self) -> None:
        """Do nothing: random experts are for one layer ahead."""


class Several(Prefetcher):
    """Records what several prefetchers predict at every visit; returns what the first predicts."""

    needs = frozenset({"lookahead", "hidden", "chosen"})

    def __init__(self, prefetchers: dict[str, Prefetcher]) -> None:
        self.prefetchers, self.layers = prefetchers, 0
        self.said: dict[str, list[list[Prediction]]] = {}

    def bind(self, geometry: Geometry, model: Path, selector: Any = None) -> None:
        """Bind all of them."""
        for each in self.prefetchers.values():
            each.bind(geometry, model, selector)

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Begin anew."""
        self.said, self.layers = {name: [] for name in self.prefetchers}, geometry.layers
        for each in self.prefetchers.values():
            each.reset(geometry, seed)

    def predict(self, observation: Observation) -> Sequence[Prediction]:
        """Ask all."""
        last = observation.access.layer == self.layers - 1
        for name, each in self.prefetchers.items():
            each.observe(observation)
            self.said[name].append([] if last else list(each.predict(observation)))
        return next(iter(self.said.values()))[-1]


def decode(model: Any, ids: torch.Tensor, prompt: int) -> None:
    """Read a prompt at once, then the rest token by token, as it stands."""
    out = model(ids[:, :prompt], use_cache=True, logits_to_keep=1)
    for position in range(prompt, ids.shape[1]):
        step = ids[:, position : position + 1]
        out = model(step, past_key_values=out.past_key_values, use_cache=True, logits_to_keep=1)


def record(
    loaded: LoadedModel, texts: list[torch.Tensor], selector: Corm, prompt: int, out: Path
) -> None:
    """Write the traces of one mode."""
    mode = selector.mode
    several = Several(
        {"": Fetch(MLP()), "-gate": Fetch(Gate()), "-random": RandomExperts(Random())}
    )
    memory = Memory(loaded.geometry.experts)
    run = offload(loaded, Setup(LRU(), memory, several, selector=selector))
    with run as model, torch.inference_mode():
        for ids in texts:
            decode(model, ids, prompt)
    about = {
        "model": "tiny",
        "workload": "held-out text, read",
        "sparsity": {"name": "corm", "mode": mode, "fraction": selector.fraction},
        "selector_bytes": selector.device_bytes,
        "coarse_bytes": {"": several.prefetchers[""].device_bytes, "-gate": 0, "-random": 0},
        **provenance(),
    }
    trace = run.recorder.trace(about)
    for name, said in several.said.items():
        trace.predictions = said
        write_trace(trace, out / f"{mode}{name}.parquet")
    decoded = trace.layer == 0
    decoded &= ~trace.prefill
    print(f"{mode}: {len(trace)} visits, {int(decoded.sum())} tokens decoded")


def equal_plans(loaded: LoadedModel, ids: torch.Tensor, prompt: int) -> tuple[int, int]:
    """Plans of a live run in thin slots, and how many of them its replay makes alike."""
    live: list[Plan] = []
    replayed: list[Plan] = []
    run = offload(
        loaded,
        Setup(LRU(), Memory(3, rows=0.4), Fetch(MLP()), selector=Corm(mode="predicted")),
        on_plan=live.append,
    )
    with run as model, torch.inference_mode():
        decode(model, ids, prompt)
    run.finish()
    residency = RowCache(LRU(), loaded.geometry, 3, rows=0.4)
    simulate(run.recorder.trace({}), residency, Recorded(), on_plan=replayed.append)
    same = sum(a == b for a, b in zip(live, replayed, strict=False))
    return max(len(live), len(replayed)), same


def main() -> None:
    """Record."""
    args = arguments(
        __doc__,
        text=(str, "tokens (FILE.bin) or text, held out"),
        out=Path,
        fraction=(0.3, "of the neurons"),
        texts=12,
        tokens=(128, "decoded of each"),
    )
    torch.set_num_threads(1)
    count, tokens, prompt = (2, 8, 8) if args.tiny else (args.texts, args.tokens, 32)
    loaded = load_model("tiny", bundles=True, store="ram")
    with tempfile.TemporaryDirectory(prefix="moex-text-") as work:
        text = corpus(args.text, loaded.tokenizer(), Path(work), prompt + tokens, 10**9, 0)
        texts = [torch.from_numpy(np.ascontiguousarray(text.batch(n, 1))) for n in range(count)]
    args.out.mkdir(parents=True, exist_ok=True)
    for mode in ("late", "predicted"):
        record(loaded, texts, Corm(fraction=args.fraction, mode=mode), prompt, args.out)
    plans, same = equal_plans(loaded, texts[0][:, : prompt + 16], prompt)
    print(f"live plans in thin slots: {plans}; equal in the replay: {same}")
    if plans != same:
        raise SystemExit("the replay makes other decisions than the live run")


if __name__ == "__main__":
    main()
