"""How good the trained predictors are on held-out text, and what a cache gains from them.

Three tables as JSON and on stdout: (1) experts, by layer, horizon and number predicted, what was
trained beside the gate; (2) replay of recorded decodings under every predictor, by horizon and
width: coverage, bytes, timeliness, waste, pollution, each from a cold cache, with the coverage and
the megabytes of every decoding; (3) neurons, by layer and way: recall, energy, memory. `shown.py`
draws them. With `--time` instead microseconds a visit, which mean something on an idle machine
only (half a minute).

    python experiments/bundled_model/predictors/study.py --text TOKENS.bin --out FOLDER [--time]

`--only` names the tables to be made; `--ranks` are ranks to which the selector is cut without
training (`sparsity.rank`), in table 3.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timed import timed

from experiments.harness import arguments, show
from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.hardware.profile import HardwareProfile
from moex.models.loader import LoadedModel, load_model
from moex.predictors.nets import Lean, read_nets
from moex.predictors.quantized_lowrank import held_bytes
from moex.prefetch.base import Observation, Prefetcher
from moex.prefetch.gate import Gate
from moex.prefetch.gate_norm import GateNorm
from moex.prefetch.gate_resid import GateResid
from moex.prefetch.linear import Linear
from moex.prefetch.mlp import MLP
from moex.prefetch.oracle import Oracle
from moex.prefetch.popularity import Popularity
from moex.prefetch.random import Random
from moex.prefetch.recorded import Recorded
from moex.runner.assemble import Setup, bind_selector, offload
from moex.runs.measured import ratio
from moex.runs.provenance import provenance
from moex.sim.simulator import simulate
from moex.sparsity.active import active
from moex.sparsity.corm import Corm
from moex.sparsity.up_reuse import UpReuse
from moex.train import quality
from moex.train.activations import contributions, read
from moex.train.data import Corpus, corpus
from moex.train.experts import ExpertTrainer
from moex.train.recipe import Recipe

# An expert takes as long to load as a layer to compute.
LINK = HardwareProfile(
    "r=1", link_bytes_per_s=589824 / 1e-3, chunk_bytes=1 << 16, visit_s=7e-4, expert_s=1.5e-4
)

TABLES = ("experts", "neurons", "up_reuse", "replays")

CASES = [(None, "top", share) for share in (0.1, 0.2, 0.3, 0.5)] + [(None, "energy", 0.9)]
"""Table 3: rank, rule, fraction; ranks below the checkpoint's have the default fraction only."""

FIRST = 100
"""Windows before this one are those of tables 1 and 3."""


class Listener(Prefetcher):
    """Says nothing and keeps all observations."""

    needs = frozenset({"hidden", "chosen", "lookahead_norm"})

    def __init__(self) -> None:
        self.seen: list[Observation] = []

    def predict(self, observation: Observation) -> list:
        """Keep it."""
        kept = {"hidden": observation.hidden.clone(), "chosen": observation.chosen.clone()}
        self.seen.append(observation._replace(**kept))
        return []


class AsRun(torch.nn.Module):
    """A network as a run computes it, in eight bits; called like the one that was trained."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.lean, self.horizon = Lean(net, net.horizon), net.horizon

    def forward(self, hidden: Any, chosen: Any, past: Any) -> Any:
        """Logits [tokens, layers ahead, experts]."""
        logits = self.lean(hidden, torch.cat([chosen, past.flatten(1)], 1))
        return logits.float().unflatten(1, (self.horizon, -1))


def experts(loaded: LoadedModel, text: Corpus, batches: int) -> list[dict[str, Any]]:
    """Table 1."""
    weights = [layer.router.weight.detach().float() for layer in loaded.layers]
    routers = [(weight, torch.zeros(len(weight))) for weight in weights]
    seen = [(each, 8) for each in reads(loaded, text, batches)]
    trainer, rows = ExpertTrainer(loaded.geometry, routers, Recipe(), 0), []
    for kind in ("gate_resid", "linear", "mlp"):
        nets = read_nets(kind, loaded.geometry, loaded.folder)
        trainer.modules = torch.nn.ModuleList(map(AsRun, nets)) if kind == "mlp" else nets
        found = quality.of_experts(trainer, routers, seen)
        for name, prefix in ((kind, ""), *([("gate", "gate_")] if kind == "mlp" else [])):
            rows += [
                {"predictor": name}
                | {key: row[key] for key in ("layer", "horizon", "named")}
                | {key: row[prefix + key] for key in ("recall", "precision", "all_named")}
                for row in found
            ]
    return rows


def reads(loaded: LoadedModel, text: Corpus, batches: int) -> list:
    """What the layers see of windows of the text."""
    with offload(loaded, Setup(LRU(), Memory(loaded.geometry.experts))) as model:
        return [
            read(model, loaded.layers, torch.from_numpy(text.batch(number, 8)))
            for number in range(batches)
        ]


def decode(
    loaded: LoadedModel, text: Corpus, windows: int, tokens: int
) -> tuple[Any, list[Observation]]:
    """Decode the text as it stands: a prompt of 32 tokens, then one by one."""
    listener = Listener()
    offloaded = offload(loaded, Setup(LRU(), Memory(loaded.geometry.experts), listener))
    with offloaded as model, torch.inference_mode():
        for number in range(windows):
            ids = torch.from_numpy(text.batch(FIRST + number, 1))
            out = model(ids[:, :32], use_cache=True, logits_to_keep=1)
            for slot in range(32, 32 + tokens):
                step = ids[:, slot : slot + 1]
                out = model(step, past_key_values=out.past_key_values, use_cache=True)
    return offloaded.recorder.trace({}), listener.seen


def replays(
    trace: Any, seen: list[Observation], loaded: LoadedModel, slots: int
) -> list[dict[str, Any]]:
    """Table 2: every predictor, one horizon at a time."""
    rows = [{"predictor": "none", "horizon": 0, "width": 0} | replay(trace, loaded, slots, None)]
    for horizon in (1, 2, 3):
        for width in (1, 2, 3, 4):
            made: dict[str, Prefetcher] = {
                "gate": Gate(horizon, width),
                "gate_norm": GateNorm(horizon, width),
                "gate_resid": GateResid(horizon, width),
                "linear": Linear(horizon, width),
                "mlp": MLP(horizon, width),
            }
            if horizon == 1:
                made |= {"popularity": Popularity(width), "random": Random(width)}
            for name, predictor in made.items():
                predictor.bind(loaded.geometry, loaded.folder)
                predictor.reset(loaded.geometry, 0)
                trace.predictions = []
                for observation in seen:
                    predictor.observe(observation)
                    layer = (observation.access.layer + horizon) % loaded.geometry.layers
                    said = [p for p in predictor.predict(observation) if p.expert.layer == layer]
                    trace.predictions.append(said)
                about = {"predictor": name, "horizon": horizon, "width": width}
                rows.append(about | replay(trace, loaded, slots, Recorded()))
        about = {"predictor": "oracle", "horizon": horizon, "width": 0}
        rows.append(about | replay(trace, loaded, slots, Oracle(horizon=horizon)))
    for row in rows:  # without prefetches that evict, no further loads are needed
        row["pollution_per_token"] = row["loads_used_per_token"] - rows[0]["loads_used_per_token"]
    return rows


def replay(
    trace: Any, loaded: LoadedModel, slots: int, predictor: Prefetcher | None
) -> dict[str, Any]:
    """One row; timeliness and seconds are of the modelled link (an expert takes a layer's time)."""
    reports = []
    for number in sorted(set(trace.sequence.tolist())):
        visits = np.flatnonzero(trace.sequence == number)
        part = trace.select(slice(int(visits[0]), int(visits[-1]) + 1))
        cache = ExpertCache(LRU(), loaded.geometry, slots, "layer", 16)
        reports.append(simulate(part, cache, predictor, LINK))

    def total(name: str) -> float:
        return float(sum(getattr(report, name) or 0 for report in reports))

    tokens, used = total("tokens_decode"), total("prefetch_hits") + total("late_hits")
    return {
        "coverage": ratio(used, used + total("demand_misses")),
        "precision": ratio(total("prefetch_used"), total("prefetch_issued")),
        "mb_prefetched_per_token": total("bytes_prefetch") / 1e6 / tokens,
        "mb_wasted_per_token": total("bytes_wasted") / 1e6 / tokens,
        "timeliness": ratio(total("prefetch_hits"), used),
        "loads_used_per_token": (total("prefetch_used") + total("demand_misses")) / tokens,
        "modelled_ms_per_token": 1e3 * total("decode_s") / tokens,
        "coverage_by_text": [report.prefetch_coverage for report in reports],
        "mb_by_text": [(r.bytes_prefetch or 0) / 1e6 / r.tokens_decode for r in reports],
    }


def neurons(
    loaded: LoadedModel, text: Corpus, batches: int, cases: list[tuple]
) -> list[dict[str, Any]]:
    """Table 3, of cases (rank, rule, fraction)."""
    held_out, rows = reads(loaded, text, batches), []
    for rank, rule, fraction in cases:
        selector = Corm(rank=rank)
        selector.bind(loaded.geometry, loaded.folder)
        table = quality.of_neurons(
            selector.factors, lambda *w: contributions(loaded, *w), held_out, fraction, rule
        )
        for row in table:
            named = {"rank": rank or "all", "rule": rule, "fraction": fraction}
            held = {"held_bytes": held_bytes([selector.factors[row["layer"]]])}
            rows.append(named | row | held)
    return rows


def reused(loaded: LoadedModel, text: Corpus, batches: int) -> list[dict[str, Any]]:
    """Table 3 for `sparsity=up_reuse`."""
    held_out, rows = reads(loaded, text, batches), []
    whole = load_model("tiny", bundles=True)
    for weigh in (True, False):
        selector = UpReuse(weigh=weigh)
        bind_selector(whole, selector)
        for layer in range(loaded.geometry.layers):
            sums = {name: quality.Sums() for name in ("late", "predicted")}
            for expert in range(loaded.geometry.experts):
                own, before = quality.states(held_out, layer, expert)
                truth = contributions(loaded, layer, expert, own)
                true = active(truth, "top", 0.3)
                for name, state in (("late", own), ("predicted", before)):
                    if state is not None and len(state):
                        sums[name].add(selector.select(state, layer, [expert])[0], true, truth)
            about = {"weigh": weigh, "held_bytes": selector.device_bytes, "layer": layer}
            rows += [each.row(**about, way=name) for name, each in sums.items() if each.tokens]
    return rows


def main() -> None:
    """Make the tables."""
    args = arguments(
        __doc__,
        text=str,
        out=Path,
        slots=3,
        ranks=[160, 128, 96, 64, 32],
        only=(list(TABLES), "", TABLES),
        time=(False, "how long predictors take, and no more"),
    )
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    loaded = load_model("tiny")
    batches, windows, tokens = (1, 2, 12) if args.tiny else (4, 12, 128)
    cases = [*CASES[-1 if args.tiny else 0 :], *((rank, "top", 0.3) for rank in args.ranks)]
    text = corpus(args.text, loaded.tokenizer(), args.out, 128 if args.tiny else 512, 10**9, 0)
    makers = {
        "experts": lambda: experts(loaded, text, batches),
        "neurons": lambda: neurons(loaded, text, batches, cases),
        "up_reuse": lambda: reused(loaded, text, batches),
        "replays": lambda: replays(*decode(loaded, text, windows, tokens), loaded, args.slots),
        "microseconds": lambda: [timed(loaded, decode(loaded, text, 1, tokens)[1])],
    }
    tables = {name: makers[name]() for name in (["microseconds"] if args.time else args.only)}
    found = {"provenance": provenance(), **tables}
    (args.out / "tables.json").write_text(json.dumps(found, indent=1) + "\n")
    for name, rows in tables.items():
        print(f"\n{name}")
        show([{n: v for n, v in row.items() if not isinstance(v, list)} for row in rows])


if __name__ == "__main__":
    main()
