"""Two levels (experts, and rows in thin slots) against one, and what each component gives.

    python experiments/studies/two_level/study.py --traces FOLDER [--tiny]

Replays the traces of `record.py` on the made-up machine `hardware=toy`, whose link is slowed until
an expert takes `r` times as long as a layer. Simulated: bytes and waits are those of the replay,
selecting and predicting cost no time here (`--select-s` charges them). Prints the README's tables
and draws two_level.png beside this file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.style import COLOURS, MARKERS, WIDE, caption, new, styled
from experiments.harness import arguments, machine, show
from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.cache.variants.row_cache import RowCache
from moex.prefetch.gate import Gate
from moex.prefetch.recorded import Recorded
from moex.sim.simulator import simulate
from moex.sparsity.neuron_counts import hottest, neuron_counts
from moex.trace.format import Trace, read_trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from moex.hardware.profile import HardwareProfile

SHARES = (1.0, 0.8, 0.6, 0.5, 0.4, 0.35, 0.3)
BUDGETS = (2, 3, 4)
"""Device bytes: those of so many whole slots a layer, and of the staging slots."""
LOADS = (0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True)
class Case:
    """One way to spend the device's bytes; `trace` names a file of record.py.

    `rows` 0 moves whole experts; `ahead` names the prefetcher: "recorded", "gate" (whole experts)
    or "none"; `hot` keeps half of each slot for the rows that the other texts (the first half)
    used most.
    """

    name: str
    trace: str = "predicted"
    rows: float = 0.4
    ahead: str = "recorded"
    hot: bool = False


CASES = (
    Case("whole experts, LRU, gate lookahead", rows=0, ahead="gate"),
    Case("CORM-like, all components"),
    Case("no fine (whole experts, mlp)", rows=0),
    Case("no coarse (random experts)", "predicted-random"),
    Case("coarse by gate lookahead", "predicted-gate"),
    Case("no two levels (whole slots)", rows=1.0),
    Case("no parallel prefetch", ahead="none"),
    Case("late masks", "late"),
    Case("hot rows pinned", hot=True),
)


def link(load: float, expert_bytes: int, select_s: float) -> HardwareProfile:
    """The toy machine with a link on which an expert takes `load` layers."""
    toy = machine("toy")
    layer_s = toy.visit_s + 2 * toy.expert_s
    return replace(toy, link_bytes_per_s=expert_bytes / (load * layer_s), select_s=select_s)


def equal_slots(trace: Trace, budget: int, rows: float, spent: int) -> tuple[int, float]:
    """Slots a layer and the share of rows that they hold, for the budget less what is spent.

    As many slots as fit with this share each, then as many rows as still fit; so few slots that a
    token's experts do not fit are 0.
    """
    geometry = trace.geometry
    staging, width = 2 * geometry.top_k, geometry.intermediate
    free = (budget * geometry.layers + staging) * width - spent * width // geometry.expert_bytes

    def made(capacity: int) -> int:
        return min(int(free // capacity - staging) // geometry.layers, geometry.experts)

    capacity = int(rows * width)
    count = made(capacity)
    while capacity < width and made(capacity + 1) >= count:
        capacity += 1
    return (count if count >= geometry.top_k else 0), capacity / width


def halves(trace: Trace) -> list[Trace]:
    """The first texts and the others, which are replayed."""
    where = int(np.searchsorted(trace.sequence, trace.sequence.max() // 2 + 1))
    return [trace.select(slice(0, where)), trace.select(slice(where, len(trace)))]


def run(
    traces: dict[str, Trace],
    case: Case,
    budget: int,
    at: HardwareProfile,
    charged: bool,
) -> dict[str, Any] | None:
    """A row; None where the budget does not hold the least. Baselines keep all their slots."""
    trace = traces[case.trace]
    geometry, about = trace.geometry, trace.provenance
    spent = about["selector_bytes"] if case.rows else 0
    if case.ahead == "recorded":
        spent += about["coarse_bytes"][case.trace[len(case.trace.split("-")[0]) :]]
    count, share = budget, 1.0
    if case.rows:
        count, share = equal_slots(trace, budget, case.rows, spent if charged else 0)
        if not count:
            return None
    cache = ExpertCache(LRU(), geometry, count)
    if case.rows:
        cache = RowCache(LRU(), geometry, count, rows=share)
        if case.hot:
            cache.hot = hottest(neuron_counts(halves(trace)[0]), cache.capacity // 2)
    trace = halves(trace)[1]
    prefetcher = {"recorded": Recorded(), "gate": Gate(), "none": None}[case.ahead]
    if prefetcher is not None and not case.rows:  # whole experts: names without rows
        said = [[p._replace(rows=None) for p in each] for each in trace.predictions or ()]
        trace = replace(trace, predictions=said)
    report = simulate(trace, cache, prefetcher, at, cold=True)
    tokens = report.tokens_decode
    device = (report.capacity_bytes or 0) + (spent if charged else 0)
    return {
        "case": case.name,
        "budget": budget,
        "slots": count,
        "rows": share if case.rows else 1.0,
        "device_mb": device / 1e6,
        "mb_per_token": ((report.bytes_demand or 0) + (report.bytes_prefetch or 0)) / 1e6 / tokens,
        "mb_demand": (report.bytes_demand or 0) / 1e6 / tokens,
        "mb_wasted": (report.bytes_wasted or 0) / 1e6 / tokens,
        "hit_rate": report.hit_rate,
        "row_hit_rate": report.row_hit_rate,
        "stall": report.stall_share,
        "ms": 1e3 * (report.tpot_s or 0.0),
    }


def draw(levels: list[dict[str, Any]], components: list[dict[str, Any]], about: str) -> Figure:
    """Left: bytes per token over the rows that a slot holds. Right: the ablation's milliseconds."""
    figure, axes = new(1, 2, (WIDE, 2.9))
    for number, budget in enumerate(sorted({row["budget"] for row in levels})):
        line = [row for row in levels if row["budget"] == budget]
        look: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number]}
        shares = [100 * row["rows"] for row in line]
        label = f"bytes of {budget} whole slots a layer"
        axes[0][0].plot(shares, [row["mb_per_token"] for row in line], label=label, **look)
    axes[0][0].set(xlabel="rows that a slot holds (% of an expert)", ylabel="MB moved/token")
    axes[0][0].set_ylim(bottom=0)
    axes[0][0].legend()
    names = [row["case"] for row in components][::-1]
    for number, row in enumerate(components[::-1]):
        first = row is components[0] or row is components[1]
        axes[0][1].barh(number, row["ms"], color=COLOURS[0 if first else 5], height=0.7)
        axes[0][1].text(row["ms"], number, f" {row['ms']:.1f}", va="center", fontsize=6.5)
    axes[0][1].set_yticks(range(len(names)), names, fontsize=6.5)
    axes[0][1].set_xlabel("ms/token, modelled")
    axes[0][1].margins(x=0.15)
    axes[0][1].grid(axis="y", visible=False)
    return caption(figure, about)


def main() -> None:
    """Replay, print, draw."""
    args = arguments(
        __doc__,
        traces=(Path, "the folder of record.py"),
        out=Path(__file__).parent,
        load=(4.0, "r of the figure"),
        budget=(4, "slots of the ablation"),
        select_s=(0.0, "seconds of selecting per visit"),
    )
    names = dict.fromkeys(case.trace for case in CASES)
    traces = {name: read_trace(args.traces / f"{name}.parquet") for name in names}
    size = traces["predicted"].geometry.expert_bytes
    at = link(args.load, size, args.select_s)
    shares, loads = ((1.0, 0.4), (4.0,)) if args.tiny else (SHARES, LOADS)
    levels = [
        row
        for budget in ((3,) if args.tiny else BUDGETS)
        for share in shares
        if (row := run(traces, Case("", rows=share), budget, at, charged=False))
    ]
    levels = [row for number, row in enumerate(levels) if row not in levels[:number]]
    print("\none level (rows 1) and two, predictor's bytes on neither side")
    show(levels)
    found = [run(traces, case, args.budget, at, charged=True) for case in CASES]
    components = [row for row in found if row]
    print(f"\ncomponents removed, r = {args.load:g}, predictor's bytes counted")
    show(components)
    speed = []
    for load in loads:
        slowed, row = link(load, size, args.select_s), {"r": load}
        for case in (CASES[0], CASES[1], CASES[6]):
            got = run(traces, case, args.budget, slowed, charged=True)
            row[case.name] = got["ms"] if got else float("nan")
        row["speedup"] = row[CASES[0].name] / row[CASES[1].name]
        speed.append(row)
    print("\nms/token by r")
    show(speed)
    tokens = halves(traces["predicted"])[1].tokens_of(prefill=False)
    about = (
        f"Simulated: {tokens} recorded tokens of the bundled model, 30 % of the neurons "
        f"(sparsity=corm), toy machine, an expert takes r = {args.load:g} layers; selecting and "
        f"predicting take {args.select_s * 1e6:g} us a visit. Left: equal bytes of slots. Right: "
        f"bytes of {args.budget} whole slots a layer, the predictor's among them."
    )
    if not args.tiny:
        with styled():
            figure = draw(levels, components, about)
            figure.savefig(args.out / "two_level.png", dpi=120, metadata={"Software": None})


if __name__ == "__main__":
    main()
