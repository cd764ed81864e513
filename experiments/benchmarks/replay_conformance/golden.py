"""Hit rates on the recorded gpt-oss-20b routing, computed here beside an independent replay's.

    python experiments/benchmarks/replay_conformance/golden.py [--objects] [--slots 8 16]

`reset` starts every sequence cold, `continue` is one stream. MIN is Belady's rule with forced
admission. The trace is looked for in $MOEX_SHARED_DATA, else in ../shared/data beside the
repository. By default the compiled curves are used, which tests hold equal to the simulator: the
whole table in seconds. `--objects` replays every cell through the cache objects: 48 replays of
8.7 M accesses, the better part of an hour.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.harness import ROOT, arguments
from moex.cache.belady import Belady
from moex.cache.core import ExpertCache
from moex.cache.fifo import FIFO
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.sim.curves.stack import curves
from moex.sim.simulator import simulate
from moex.trace.importers import arrays
from moex.types import Geometry

if TYPE_CHECKING:
    from moex.runs.report import Report
    from moex.trace.format import Trace

GEOMETRY = Geometry(24, 32, 4, 2880, 2880, 13_200_000)
POLICIES = {"LRU": LRU, "LFU": LFU, "FIFO": FIFO, "MIN": Belady}
MODES = ("reset", "continue")

EXPECTED = {
    "reset": {
        4: (0.4268, 0.4268, 0.4268, 0.4268),
        6: (0.5407, 0.5723, 0.5220, 0.6477),
        8: (0.6409, 0.6777, 0.6105, 0.7622),
        12: (0.7926, 0.8222, 0.7525, 0.8826),
        16: (0.8885, 0.9042, 0.8540, 0.9388),
        24: (0.9666, 0.9687, 0.9547, 0.9745),
    },
    "continue": {
        4: (0.4275, 0.4275, 0.4275, 0.4275),
        6: (0.5421, 0.5370, 0.5233, 0.6501),
        8: (0.6430, 0.6331, 0.6122, 0.7662),
        12: (0.7967, 0.7733, 0.7558, 0.8901),
        16: (0.8952, 0.8648, 0.8593, 0.9497),
        24: (0.9812, 0.9691, 0.9658, 0.9920),
    },
}
ALL_HIT = {  # share of visits without a load: LRU, MIN; reset
    4: (0.047, 0.047),
    6: (0.124, 0.203),
    8: (0.227, 0.383),
    12: (0.463, 0.647),
    16: (0.676, 0.808),
    24: (0.901, 0.928),
}


def folder() -> Path:
    """The path of the recorded routing, if it is there."""
    shared = Path(os.environ.get("MOEX_SHARED_DATA", ROOT.parent / "shared" / "data"))
    return shared / "traces" / "gpt-oss-20b-decode"


@cache
def load(sequences: int | None = None) -> Trace:
    """The recorded routing as a trace (of its first sequences)."""
    return arrays.read(folder(), GEOMETRY, sequences=sequences)


def measure(trace: Trace, name: str, slots: int, mode: str) -> Report:
    """One cell of the table, replayed through the cache objects."""
    policy = POLICIES[name]()
    future = trace.future() if "future" in policy.needs else None
    residency = ExpertCache(policy, GEOMETRY, slots, future=future)
    return simulate(trace, residency, cold=mode == "reset")


def rates(trace: Trace, name: str, slots: int, mode: str) -> tuple[float, float]:
    """Hit rate and all-hit rate of a replayed cell."""
    report = measure(trace, name, slots, mode)
    assert report.hit_rate is not None
    assert report.all_hit_rate is not None
    return report.hit_rate, report.all_hit_rate


def rates_of_curve(trace: Trace, name: str, slots: int, mode: str) -> tuple[float, float]:
    """The same cell from the compiled curves."""
    kind = "belady" if name == "MIN" else name.lower()
    curve = curves(trace, (kind,), slots=[slots], cold=mode == "reset")[kind]
    return float(curve.hit_rate[0]), float(curve.all_hits[0] / curve.visits)


def main() -> None:
    """Print computed beside expected; the last line counts the cells that differ."""
    options = arguments(
        __doc__,
        tiny={"slots": [16], "modes": ["reset"]},
        slots=[4, 6, 8, 12, 16, 24],
        modes=(list(MODES), "", MODES),
        objects=(False, "replay through the cache objects"),
    )
    cell = rates if options.objects else rates_of_curve
    trace = load()
    cells = wrong = 0
    print("mode      slots policy  computed expected   all-hit expected")
    for mode in options.modes:
        for slots in options.slots:
            for name, expected in zip(POLICIES, EXPECTED[mode][slots], strict=True):
                hit, whole = cell(trace, name, slots, mode)
                row = f"{mode:<9} {slots:5} {name:<6} {hit:9.4f} {expected:8.4f}"
                agrees = round(hit, 4) == expected
                if mode == "reset" and name in ("LRU", "MIN"):
                    visits = ALL_HIT[slots][name == "MIN"]
                    agrees = agrees and round(whole, 3) == visits
                    row += f" {whole:9.3f} {visits:8.3f}"
                cells, wrong = cells + 1, wrong + (not agrees)
                print(row + ("" if agrees else "  DIFFERS"), flush=True)
    print(f"{cells} cells, {wrong} differ")


if __name__ == "__main__":
    main()
