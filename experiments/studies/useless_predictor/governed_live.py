"""The part `decoding` of study.py: the governor while the bundled model decodes."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
import yaml

from analysis.paired import paired_ratio
from experiments.harness import ROOT, table
from moex.bench.workload import generate
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.hardware.profile import HardwareProfile
from moex.prefetch.gate import Gate
from moex.prefetch.gate_norm import GateNorm
from moex.prefetch.gate_resid import GateResid
from moex.prefetch.linear import Linear
from moex.prefetch.markov import Markov
from moex.prefetch.mlp import MLP
from moex.prefetch.none import NoPrefetch
from moex.prefetch.popularity import Popularity
from moex.prefetch.previous import Previous
from moex.prefetch.random import Random
from moex.runner.assemble import Setup, load_model, offload
from moex.types import DECODE

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from moex.cache.stats import Counts
    from moex.prefetch.base import Prefetcher
    from moex.runner.assemble import LoadedModel

    Counted = tuple[float, Counts]

Row = dict[str, Any]
PREDICTORS: dict[str, type[Prefetcher]] = {
    "gate": Gate,
    "gate_norm": GateNorm,
    "gate_resid": GateResid,
    "linear": Linear,
    "mlp": MLP,
    "markov": Markov,
    "popularity": Popularity,
    "previous": Previous,
    "random": Random,
}
HALF_WIDTH = 0.015
SLOTS = 4


def seconds(loaded: LoadedModel, setup: Setup, prompt: torch.Tensor, tokens: int) -> Counted:
    """Seconds a decoded token from an empty cache, and what was counted meanwhile."""
    with (run := offload(loaded, setup)) as model:
        for count in (4, tokens):  # the first is warmth
            run.restart()
            run.meter.reset()
            generate(model, [prompt], count, run.meter)
            run.finish()
    decode = run.meter.phases[DECODE]
    return decode.seconds / decode.passes, run.cache_stats.phases[DECODE]


def links(loaded: LoadedModel) -> dict[str, HardwareProfile | None]:
    """Three links by name: this machine's from disk and from memory, and an emulated one.

    On that one a load takes two layers of this machine and goes in nine chunks.
    """
    geometry, prompt = loaded.geometry, torch.arange(16, 48)[None]
    resident = Setup(LRU(), Memory(geometry.experts), NoPrefetch())
    layer_s = min(seconds(loaded, resident, prompt, 24)[0] for _ in range(3)) / geometry.layers
    size = geometry.expert_bytes
    return {
        "disk": None,
        "ram": None,
        "emulated": HardwareProfile("emulated", size / (2 * layer_s), 0.0, size // 9),
    }


def measure(
    models: list[LoadedModel], setups: list[Setup], prompt: torch.Tensor, args: Namespace
) -> tuple[list[list[float]], list[Counts]]:
    """Seconds a token of every setup, in turns until all ratios of the last one are known.

    From turn to turn they change models, and all memory is allocated anew: its addresses make
    one of two equal setups up to 5 % faster.
    """
    turns: list[list[float]] = []
    counted: dict[int, Counts] = {}
    while len(turns) <= args.most:
        took = {}
        for n in range(len(setups))[:: (-1) ** len(turns)]:
            loaded = models[(n + len(turns)) % len(models)]
            took[n], counted[n] = seconds(loaded, setups[n], prompt, args.tokens)
        turns.append([took[n] for n in range(len(setups))])
        if len(turns) > min(7, args.most):  # the first is warmth
            *others, last = zip(*turns[1:], strict=True)
            ratios = [paired_ratio(other, last) for other in others]
            if all((ratio.high - ratio.low) / 2 <= HALF_WIDTH for ratio in ratios):
                break
    times = [list(each) for each in zip(*turns[1:], strict=True)]
    return times, [counted[n] for n in range(len(setups))]


def decoding(args: Namespace) -> Iterator[Row]:
    """A row a link and predictor: speed with the governor over none, and over itself without."""
    torch.set_num_threads(1)
    stored = {store: [load_model("tiny", store=store) for _ in "123"] for store in ("disk", "ram")}
    texts = yaml.safe_load((ROOT / "conf" / "workload" / "short.yaml").read_text())["prompts"]
    tokenizer = stored["ram"][0].tokenizer()
    prompt = torch.tensor([tokenizer(texts[0])["input_ids"][:16]])
    words = list(PREDICTORS)[:1] if args.tiny else PREDICTORS
    for (name, link), word in product(links(stored["ram"][0]).items(), words):
        models = stored["disk" if name == "disk" else "ram"]
        plain = Setup(LRU(), Memory(args.slots), NoPrefetch(), link)
        free = replace(plain, prefetcher=PREDICTORS[word]())
        governed = replace(free, prefetcher=PREDICTORS[word](), governor=True)
        (none_s, off_s, on_s), (_, off, on) = measure(models, [plain, free, governed], prompt, args)
        over = {
            "off_against_none": paired_ratio(none_s, off_s),
            "against_none": paired_ratio(none_s, on_s),
            "against_off": paired_ratio(off_s, on_s),
        }
        row: Row = {"link": name, "predictor": word, "slots": args.slots}
        row["precision"] = off.prefetch_used / max(off.prefetch_issued, 1)
        row["paused"] = on.paused_visits / max(on.visits, 1)
        for key, ratio in over.items():
            row |= {key: ratio.median, f"{key}_low": ratio.low, f"{key}_high": ratio.high}
        yield {**row, "pairs": over["against_none"].pairs}


def summary(rows: list[Row]) -> None:
    """Print a line a row, with 95 % intervals."""
    keys = ("off_against_none", "against_none", "against_off")
    lines = [
        (
            *(row[key] for key in ("link", "predictor", "precision", "paused")),
            *(f"{row[k]:.3f} [{row[k + '_low']:.3f}, {row[k + '_high']:.3f}]" for k in keys),
        )
        for row in rows
    ]
    head = "link, predictor, precision, paused, off / none, on / none, on / off"
    table(head.split(", "), lines)
