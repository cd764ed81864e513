"""Predict table 2 of Eliseev & Mazur 2023 (arXiv 2312.17238) from two of its rows.

    python experiments/paper/seed1_table2/table2.py

Prints the tables of the README. Needs no data and no GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from math import sqrt
from typing import TYPE_CHECKING

from experiments.harness import arguments, table
from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.hardware.profile import HardwareProfile
from moex.prefetch.oracle import Oracle
from moex.sim.simulator import simulate
from moex.trace.synthetic import Dials, generate
from moex.types import Geometry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moex.trace.format import Trace

LAYERS, EXPERTS, TOP_K = 32, 8, 2
LOADS = LAYERS * TOP_K
NAIVE_LOADS = LAYERS * EXPERTS  # accelerate's offloading moves whole layers
RECALL = 0.866  # of the next layer's router on this layer's input: AdapMoE's table, layers 1-31

# Mixtral paper (arXiv 2401.04088) table 5: how often neighbouring tokens share at least one of
# their two experts, at three layers; the middle of what eight kinds of text gave.
SHARED = {0: 0.474, 15: 0.643, 31: 0.4905}


@dataclass(frozen=True)
class Column:
    """One machine and bit width of the paper's table; speeds in tokens/s, as printed."""

    name: str
    slots: int
    hit_rate: float
    full: float
    no_preload: float
    no_cache: float
    naive: float

    @property
    def load_s(self) -> float:
        """Seconds a load, from rows 2 and 3, which differ by the loads that the cache saves."""
        return (1 / self.no_cache - 1 / self.no_preload) / (LOADS * self.hit_rate)

    @property
    def fixed_s(self) -> float:
        """Seconds a token beside loads, from row 3."""
        return 1 / self.no_cache - LOADS * self.load_s

    @property
    def gpu(self) -> str:
        """The machine without the bit width."""
        return self.name.rsplit(" ", 1)[0]


COLUMNS = (
    Column("A100 2-bit", 4, 0.60, 3.061, 2.918, 2.265, 1.392),
    Column("3080M 2-bit", 4, 0.60, 2.655, 2.227, 1.758, 1.059),
    Column("3060 2-bit", 2, 0.37, 2.278, 2.051, 1.547, 0.919),
    Column("T4 2-bit", 4, 0.60, 2.092, 1.567, 1.168, 0.661),
    Column("A100 3-bit", 4, 0.60, 2.845, 2.683, 2.055, 1.246),
    Column("3080M 3-bit", 4, 0.60, 2.475, 2.024, 1.595, 0.914),
    Column("3060 3-bit", 2, 0.37, 2.038, 1.857, 1.346, 1.791),
    Column("T4 3-bit", 4, 0.60, 1.603, 1.365, 1.061, 0.580),
)


def overlapping(column: Column, share: float) -> float:
    """Tokens/s of row 1 if copies for the next layer run during `share` of the fixed time.

    Right prefetches (a share RECALL of a layer's loads) are hidden as far as that time reaches.
    """
    loads_s = TOP_K * (1 - column.hit_rate) * column.load_s
    hidden_s = min(RECALL * loads_s, share * column.fixed_s / LAYERS)
    return 1 / (1 / column.no_preload - LAYERS * hidden_s)


def fitted_share(columns: list[Column]) -> float:
    """The share in steps of 0.01 with the least squared error of row 1 over the columns."""
    return min(
        (step / 100 for step in range(101)),
        key=lambda share: sum((overlapping(c, share) / c.full - 1) ** 2 for c in columns),
    )


def two_slot_hit_rate() -> float:
    """LRU's hit rate with two slots, from published figures of Mixtral alone.

    Two slots hold what the token before used, so a layer's hit rate is (P(one shared or more) +
    P(both shared)) / 2. The first is `SHARED`; the second follows if an expert just used is
    likelier than another by some odds w: P(0, 1, 2 shared) ~ 15, 12 w, w^2 of 8 experts. Layers
    between the three published ones are interpolated.
    """
    rates = {}
    for layer, shared in SHARED.items():
        ratio = 15 * shared / (1 - shared)
        odds = sqrt(36 + ratio) - 6
        both = odds**2 / (15 + ratio)
        rates[layer] = (shared + both) / 2
    loaded = [
        rates[0] + (rates[15] - rates[0]) * layer / 15
        if layer < 15
        else rates[15] + (rates[31] - rates[15]) * (layer - 15) / 16
        for layer in range(LAYERS)
    ]
    return sum(loaded) / LAYERS


@cache
def routing(skew: float = 0.5, temporal: float = 0.15) -> Trace:
    """Routing whose LRU hit rates are near .60 and .37; an expert counts 1 MB."""
    geometry = Geometry(LAYERS, EXPERTS, TOP_K, 4096, 14336, 1_000_000)
    dials = Dials(skew=skew, temporal=temporal, linked=0.0)
    return generate(geometry, tokens=150, sequences=2, dials=dials, seed=1)


def published(column: Column) -> Column:
    """The column, with the hit rate that Mixtral's own figures give for two slots."""
    return replace(column, hit_rate=two_slot_hit_rate()) if column.slots == 2 else column


def simulated(column: Column, preload: bool) -> tuple[float, float]:
    """Tokens/s and hit rate of the simulator, whose copy stream runs beside all computing."""
    trace = routing() if column.hit_rate in (0.60, 0.37) else routing(skew=0.32, temporal=0.09)
    geometry = trace.geometry
    hardware = HardwareProfile(
        name=column.name,
        link_bytes_per_s=geometry.expert_bytes / column.load_s,
        visit_s=column.fixed_s / LAYERS,
    )
    prefetch = Oracle(precision=RECALL, recall=RECALL) if preload else None
    report = simulate(trace, ExpertCache(LRU(), geometry, column.slots), prefetch, hardware)
    assert report.tokens_per_second is not None
    assert report.hit_rate is not None
    return report.tokens_per_second, report.hit_rate


def off(predicted: float, measured: float) -> str:
    """Relative error with its sign."""
    return f"{predicted / measured - 1:+.1%}"


def main() -> None:
    """Print everything."""
    columns = COLUMNS[:2] if arguments(__doc__).tiny else COLUMNS
    print(f"hit rate of two slots by Mixtral's published repetition: {two_slot_hit_rate():.3f}")
    heads = ["A full overlap", "D A with published hit rate", "B other GPUs", "C same GPU"]
    table(["column", "load, ms", "fixed, ms", "row 1", *heads], map(predicted, columns))
    heads = ["column", "row 2, simulated", "hit rate, simulated", "naive", "predicted naive"]
    table(heads, map(checked, columns))


def predicted(c: Column) -> Iterator[str]:
    """Cells of row 1: under four assumptions about overlap."""
    yield from (c.name, f"{c.load_s * 1e3:.2f}", f"{c.fixed_s * 1e3:.0f}", f"{c.full:.3f}")
    ideal, _ = simulated(c, preload=True)
    yield f"{ideal:.3f} ({off(ideal, c.full)})"
    other, rate = simulated(published(c), preload=True)
    yield f"{other:.3f} ({off(other, c.full)}, hit rate simulated {rate:.3f})"
    others = fitted_share([other for other in COLUMNS if other.gpu != c.gpu])
    same = fitted_share([o for o in COLUMNS if o.gpu == c.gpu and o.name != c.name])
    for share in (others, same):
        speed = overlapping(c, share)
        yield f"{speed:.3f} ({off(speed, c.full)}, share {share:.2f})"


def checked(c: Column) -> Iterator[str]:
    """Cells of row 2, simulated, and of the naive row, predicted."""
    speed, hit_rate = simulated(c, preload=False)
    naive = 1 / (c.fixed_s + NAIVE_LOADS * c.load_s)
    misprint = f"; {off(naive, 0.791)} against 0.791" if c.naive == 1.791 else ""
    yield from (c.name, f"{speed:.3f} ({off(speed, c.no_preload)})", f"{hit_rate:.3f}")
    yield from (f"{c.naive:.3f}", f"{naive:.3f} ({off(naive, c.naive)}{misprint})")


if __name__ == "__main__":
    main()
