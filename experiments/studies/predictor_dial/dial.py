"""How good must a predictor be to gain 10 %? Simulated with oracles of given quality.

    python experiments/studies/predictor_dial/dial.py [--load 1.0] [--tiny]

Replays the bundled trace, and a real gpt-oss-20b trace where MOEX_SHARED_DATA holds one, with half
of the experts resident (LRU) and `prefetch=oracle` over precision x recall x horizon. All cells
have the same slots, and wrong prefetches cross the link like right ones. A load takes `--load`
times as long as computing a layer. Writes dial.png beside this file and prints its table.
"""

from __future__ import annotations

import os
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

from experiments.harness import arguments, table

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from moex.api import read_trace, simulate
from moex.cache.lru import LRU
from moex.hardware.profile import HardwareProfile
from moex.paths import trace_path
from moex.prefetch.gate import Gate
from moex.prefetch.oracle import Oracle
from moex.trace.importers import arrays

if TYPE_CHECKING:
    from moex.prefetch.base import Prefetcher
    from moex.trace.format import Trace

PRECISIONS, RECALLS, HORIZONS = (0.25, 0.5, 0.75, 1.0), (0.2, 0.4, 0.6, 0.8, 1.0), (1, 2, 3)
COLORS = dict(zip(PRECISIONS, ("#D55E00", "#E69F00", "#56B4E9", "#0072B2"), strict=True))
WANTED = 0.10
Gains = dict[tuple[float, float, int], float]


def traces(visits: int) -> dict[str, Trace]:
    """Name -> trace, cut to so many visits."""
    found = {"bundled Mixtral (tiny)": read_trace(trace_path("tiny"))}
    folder = Path(os.environ.get("MOEX_SHARED_DATA", "")) / "traces" / "gpt-oss-20b-decode"
    if "MOEX_SHARED_DATA" in os.environ and folder.is_dir():
        found["gpt-oss-20b"] = arrays.read(folder, sequences=4)
    return {name: trace.select(slice(0, visits)) for name, trace in found.items()}


def speed(trace: Trace, prefetcher: Prefetcher | None, load: float) -> float:
    """Simulated tokens/s; computing a layer takes 1 ms."""
    size = trace.geometry.expert_bytes
    machine = HardwareProfile("dial", size / (load * 1e-3), visit_s=1e-3, expert_bytes=size)
    report = simulate(trace, LRU(), 0.5, prefetcher, hardware=machine, governor=False)
    assert report.tokens_per_second is not None
    return report.tokens_per_second


def gains(trace: Trace, load: float) -> Gains:
    """Gain over `prefetch=none` of every cell, as a share."""
    before = speed(trace, None, load)
    cells = list(product(PRECISIONS, RECALLS, HORIZONS))
    return {(p, r, h): speed(trace, Oracle(p, r, h), load) / before - 1 for p, r, h in cells}


def gate(trace: Trace, load: float) -> tuple[float, float, float] | None:
    """Precision, recall and gain of gate lookahead; None where a trace holds none."""
    if trace.lookahead is None:
        return None
    experts, top_k = trace.geometry.experts, trace.geometry.top_k
    named = right = demanded = 0
    for here, there in pairwise(trace.accesses()):
        ahead = trace.lookahead_rows(here.clock)
        demanded += len(there.experts)
        if ahead:  # the last layer's router sees no layer ahead
            best = sorted(range(experts), key=ahead[0].__getitem__)[-top_k:]
            named += top_k
            right += len(set(best) & set(there.experts))
    gain = speed(trace, Gate(), load) / speed(trace, None, load) - 1
    return right / named, right / demanded, gain


def needed(found: Gains, precision: float, horizon: int) -> str:
    """The least recall that gains `WANTED`, interpolated between cells."""
    below, low = 0.0, 0.0
    for recall in RECALLS:
        gain = found[precision, recall, horizon]
        if gain >= WANTED:
            return f"{below + (recall - below) * (WANTED - low) / (gain - low):.2f}"
        below, low = recall, gain
    return "-"


def main() -> None:
    """Print the tables, draw the figure."""
    args = arguments(__doc__, load=(1.0, "load time / layer time"))
    found = traces(300 if args.tiny else 6144)
    figure, panels = plt.subplots(
        1, len(found), figsize=(4.4 * len(found), 3.6), layout="constrained", squeeze=False
    )
    for panel, (name, trace) in zip(panels[0], found.items(), strict=True):
        cells, marker = gains(trace, args.load), gate(trace, args.load)
        print(f"\n{name}: {len(trace)} visits, half of the experts resident, simulated")
        settings = list(product(PRECISIONS, HORIZONS))
        table(
            ["precision", *(f"recall {r}" for r in RECALLS), "recall for +10 %"],
            (
                (
                    f"{p} (horizon {h})",
                    *(f"{cells[p, r, h]:+.1%}" for r in RECALLS),
                    needed(cells, p, h),
                )
                for p, h in settings
            ),
        )
        for precision, horizon in settings:
            line = [100 * cells[precision, r, horizon] for r in RECALLS]
            if horizon == 1:
                panel.plot(
                    RECALLS, line, "o-", color=COLORS[precision], label=f"precision {precision}"
                )
            elif precision == 1:
                style = {2: "--", 3: ":"}[horizon]
                panel.plot(RECALLS, line, style, color="grey", label=f"1.0, horizon {horizon}")
        if marker:
            precision, recall, gain = marker
            print(f"gate lookahead: precision {precision:.2f}, recall {recall:.2f}, {gain:+.1%}")
            panel.plot(recall, 100 * gain, "k*", markersize=13, label="gate lookahead")
        panel.axhline(100 * WANTED, color="black", linewidth=0.8, linestyle=(0, (1, 3)))
        panel.set(xlabel="recall of the predictor", title=f"{name}, simulated")
        panel.legend(fontsize=7)
    panels[0][0].set_ylabel("tokens/s over prefetch=none, %")
    if not args.tiny:
        figure.savefig(Path(__file__).with_name("dial.png"), dpi=90)


if __name__ == "__main__":
    main()
