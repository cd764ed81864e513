"""Does a useless predictor cost anything? `prefetch=random` against `prefetch=none`.

    python experiments/studies/useless_predictor/study.py simulated [--traces FOLDER] [--tiny]
    python experiments/studies/useless_predictor/study.py live --out results/useless.jsonl [--tiny]
    python experiments/studies/useless_predictor/study.py governor [--least .3] [--tiny]
    python experiments/studies/useless_predictor/study.py decoding --out results/governor.jsonl

`simulated` replays the bundled trace on the made-up machine `hardware=toy`, whose link is slowed
until an expert takes `r` times as long as a layer; with `--traces` (of
`experiments/studies/two_level/record.py`) also rows: random experts, their rows by the selector. It
draws useless.png beside this file. `live` decodes with the bundled model behind an emulated link,
both sides open at once and in turns; it means something on an idle machine only. The bar is .95.
`governor` replays whole experts with every predictor that a replay can ask, without and with the
governor that pauses seldom used prefetching; `decoding` decodes so, from disk, from memory and
behind an emulated link, in turns until the 95 % half-width is 1.5 %.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
import yaml

from analysis.paired import in_turns, paired_ratio
from analysis.style import COLOURS, MARKERS, WIDE, caption, new, styled
from experiments.harness import ROOT, arguments, emit
from experiments.studies.useless_predictor import governed_live
from experiments.studies.useless_predictor.governed import LOADS, governed, slowed, summary
from experiments.studies.useless_predictor.governed_live import decoding
from moex.api import read_trace
from moex.bench.workload import generate
from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.cache.variants.row_cache import RowCache
from moex.hardware.profile import HardwareProfile
from moex.prefetch.none import NoPrefetch
from moex.prefetch.random import Random
from moex.prefetch.recorded import Recorded
from moex.runner.assemble import Setup, load_model, offload
from moex.sim.simulator import simulate
from moex.types import DECODE

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from moex.prefetch.base import Prefetcher
    from moex.runner.offloaded import OffloadedModel
    from moex.trace.format import Trace

SLOTS, WIDTHS = (2, 3, 4), (1, 2, 4)
BAR = 0.95
Row = dict[str, Any]


def speed(
    trace: Trace, slots: int, prefetch: Prefetcher | None, link: HardwareProfile, rows: float
) -> float:
    """Simulated tokens/s; `rows` 0: whole experts."""
    cache = ExpertCache(LRU(), trace.geometry, slots)
    if rows:
        cache = RowCache(LRU(), trace.geometry, slots, rows=rows)
    report = simulate(trace, cache, prefetch, link)
    assert report.tokens_per_second is not None
    return report.tokens_per_second


def simulated(args: Namespace) -> Iterator[Row]:
    """A row a cell: whole experts at three widths and three sizes of chunks, then rows."""
    trace = read_trace("tiny")
    trace = trace.select(slice(0, 240 if args.tiny else 1536))
    loads, slots = ((4.0,), (3,)) if args.tiny else (LOADS, SLOTS)
    whole: list[tuple[str, Trace, float, Prefetcher, int]] = [
        ("whole experts", trace, 0.0, Random(width), 9) for width in WIDTHS
    ]
    whole += [("whole experts", trace, 0.0, Random(), chunks) for chunks in (4, 1)]
    if args.traces:
        recorded = read_trace(args.traces / "predicted-random.parquet")
        recorded = recorded.select(slice(0, len(recorded) // 6))
        for share, chunks in ((1.0, 9), (0.4, 9), (0.4, 36)):
            whole.append(("rows", recorded, share, Recorded(), chunks))
    for name, each, rows, prefetch, chunks in whole:
        for count in slots:
            for load in loads:
                link = slowed(load, each.geometry.expert_bytes, chunks)
                without = speed(each, count, None, link, rows)
                ratio = speed(each, count, prefetch, link, rows) / without
                yield {
                    "simulated": name,
                    "rows": rows or 1.0,
                    "width": getattr(prefetch, "width", 0) or 2,
                    "chunks": chunks,
                    "slots": count,
                    "load_over_layer": load,
                    "against_none": ratio,
                }


def seconds(run: OffloadedModel, model: Any, prompts: list[torch.Tensor], tokens: int) -> float:
    """Seconds a decoded token, from an empty cache."""
    run.restart()
    run.meter.reset()
    generate(model, prompts, tokens, run.meter)
    run.finish()
    return run.meter.phases[DECODE].seconds / run.meter.phases[DECODE].passes


def live(args: Namespace) -> Iterator[Row]:
    """A row a cell, with the 95 % interval of the paired ratio."""
    torch.set_num_threads(1)
    models = [load_model("tiny", store="ram") for _ in range(2)]  # open at once: a model each
    loaded = models[0]
    tokens, repeats = (4, 2) if args.tiny else (24, args.repeats)
    texts = yaml.safe_load((ROOT / "conf" / "workload" / "short.yaml").read_text())["prompts"]
    tokenizer = loaded.tokenizer()
    prompts = [torch.tensor([tokenizer(text)["input_ids"][:16]]) for text in texts[:1]]
    geometry, whole = loaded.geometry, Memory(loaded.geometry.experts)
    run = offload(loaded, Setup(LRU(), whole))
    with run as model:  # all experts there: what a layer takes
        times = [seconds(run, model, prompts, tokens) for _ in range(3)]
    layer_s = min(times) / geometry.layers
    for load in (4.0,) if args.tiny else LOADS:
        chunk = geometry.expert_bytes // 9
        link = HardwareProfile("emulated", geometry.expert_bytes / (load * layer_s), 0.0, chunk)
        for count in (3,) if args.tiny else SLOTS:
            with ExitStack() as stack:
                sides = []
                for own, prefetch in zip(models, (NoPrefetch(), Random()), strict=True):
                    run = offload(own, Setup(LRU(), Memory(count), prefetch, link))
                    model = stack.enter_context(run)
                    sides.append(partial(seconds, run, model, prompts, tokens))
                kept = in_turns(repeats, *sides)
            gain = paired_ratio(*kept)
            yield {
                "emulated": True,
                "load_over_layer": load,
                "slots": count,
                "layer_s": layer_s,
                "none_s": median(kept[0]),
                "random_s": median(kept[1]),
                "against_none": gain.median,
                "low": gain.low,
                "high": gain.high,
                "pairs": gain.pairs,
            }


def draw(rows: list[Row], out: Path) -> None:
    """A panel a kind, the least over slots against r."""
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        plain = "9 chunks per expert" if row["chunks"] == 9 else "2 prefetches, other chunks"
        kind = "rows, 2 prefetches" if row["simulated"] == "rows" else plain
        kinds.setdefault(kind, []).append(row)
    with styled():
        figure, axes = new(1, len(kinds), (WIDE, 2.6))
        for axis, (name, found) in zip(axes[0], kinds.items(), strict=True):
            keys = list(dict.fromkeys((row["width"], row["chunks"], row["rows"]) for row in found))
            for number, key in enumerate(keys):
                mine = [r for r in found if (r["width"], r["chunks"], r["rows"]) == key]
                loads = sorted({row["load_over_layer"] for row in mine})
                least = [
                    min(r["against_none"] for r in mine if r["load_over_layer"] == load)
                    for load in loads
                ]
                width, chunks, share = key
                label = f"{width} prefetch{'es'[: 2 * width - 2]}, whole experts"
                if chunks != 9:
                    label = f"{chunks} chunk{'s'[: chunks - 1]} per expert"
                if name.startswith("rows"):
                    label = f"slots of {share:.0%}, {chunks} chunks"
                look: Row = {"color": COLOURS[number], "marker": MARKERS[number]}
                axis.plot(loads, least, label=label, **look)
            axis.axhline(BAR, color="0.45", linestyle=(0, (1, 1.5)), label="bar, .95")
            axis.set_xscale("log", base=2)
            axis.set_xticks(LOADS, [f"{load:g}" for load in LOADS])
            axis.set(title=name, xlabel="r: loading an expert / a layer", ylim=(0.5, 1.15))
            axis.legend(loc="lower left")
        axes[0][0].set_ylabel("speed over prefetch=none")
        text = (
            "Simulated, bundled model, toy machine; every point is the worst of 2, 3 and 4 slots "
            "a layer. Prefetches are uniformly random; demand overtakes them between chunks."
        )
        caption(figure, text).savefig(out, dpi=120, metadata={"Software": None})


def main() -> None:
    """Run what was asked for; a JSON line a cell, and the worst at last."""
    args = arguments(
        __doc__,
        "simulated",
        "live",
        "governor",
        "decoding",
        tiny={"tokens": 4, "most": 2},
        traces=(None, "the folder of studies/two_level/record.py", Path),
        least=(None, "of `governor`: this precision on every link", float),
        out=None,
        repeats=7,
        tokens=48,
        slots=(governed_live.SLOTS, "of `decoding`: slots a layer"),
        most=(40, "of `decoding`: turns at most"),
    )
    rows = []
    parts = {
        "simulated": simulated,
        "live": live,
        "governor": governed,
        "decoding": decoding,
    }
    for row in parts[args.part](args):
        rows.append(row)
        emit(row, args.out)
    if args.part == "simulated" and not args.tiny:
        draw(rows, Path(__file__).with_name("useless.png"))
    if args.part == "governor":
        summary(rows)
    if args.part == "decoding":
        governed_live.summary(rows)
    worst = min(rows, key=lambda row: row["against_none"])
    print(f"worst of all, against prefetch=none (bar {BAR}): {json.dumps(worst)}")


if __name__ == "__main__":
    main()
