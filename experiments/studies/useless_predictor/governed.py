"""The part `governor` of study.py: what pausing seldom used prefetching costs and brings."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from experiments.harness import machine, table
from moex.api import read_trace
from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.decisions.governor import Governor, least_precision
from moex.prefetch.gate import Gate
from moex.prefetch.markov import Markov
from moex.prefetch.oracle import Oracle
from moex.prefetch.popularity import Popularity
from moex.prefetch.previous import Previous
from moex.prefetch.random import Random
from moex.sim.simulator import simulate

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from moex.hardware.profile import HardwareProfile
    from moex.prefetch.base import Prefetcher
    from moex.runs.report import Report

Row = dict[str, Any]
LOADS = (0.5, 1.0, 2.0, 4.0, 8.0)
PREDICTORS: dict[str, Prefetcher] = {
    "gate": Gate(),
    "gate, 2 ahead": Gate(2),
    "markov": Markov(),
    "popularity": Popularity(),
    "previous": Previous(),
    "random": Random(),
    "oracle, precision .3": Oracle(0.3, 0.6),
    "oracle": Oracle(),
}


def slowed(load: float, expert_bytes: int, chunks: int) -> HardwareProfile:
    """The toy machine; an expert takes `load` layers on its link, and goes in so many chunks."""
    toy = machine("toy")
    layer_s = toy.visit_s + 2 * toy.expert_s
    speed, chunk = expert_bytes / (load * layer_s), expert_bytes // chunks
    return replace(toy, link_bytes_per_s=speed, chunk_bytes=chunk)


def machines(expert_bytes: int) -> Iterator[tuple[str, float, HardwareProfile]]:
    """Name, load over layer, and profile: few and many chunks, and costs of handing loads over.

    Those were calibrated (`benchmarks/forecast`): 130 us a load, a tenth of a layer.
    """
    costs = {"submit_s": 10e-6, "handover_s": 130e-6, "load_s": 97e-6, "predict_s": 16e-6}
    for load in LOADS:
        yield "9 chunks", load, slowed(load, expert_bytes, 9)
        yield "1 chunk", load, slowed(load, expert_bytes, 1)
        yield "costs, 9 chunks", load, replace(slowed(load, expert_bytes, 9), **costs)


def faster(one: Report, other: Report) -> float:
    """How many times as fast as the other one decodes."""
    return (other.tpot_s or 0.0) / (one.tpot_s or 1.0)


def governed(args: Namespace) -> Iterator[Row]:
    """A row a cell: speed with the governor over that without prefetching and without governor."""
    trace = read_trace("tiny")
    trace = trace.select(slice(0, 240)) if args.tiny else trace
    for name, load, link in machines(trace.geometry.expert_bytes):
        for count in (3,) if args.tiny else (2, 4, 6):
            cache = ExpertCache(LRU(), trace.geometry, count)
            plain = simulate(trace, cache, None, link)
            least = least_precision(trace.geometry, link, overlaps=True)
            least = args.least or least
            for word, prefetch in PREDICTORS.items():
                off, on = (
                    simulate(trace, cache, prefetch, link, governor=Governor(each))
                    for each in (None, least)
                )
                yield {
                    "link": name,
                    "load_over_layer": load,
                    "slots": count,
                    "predictor": word,
                    "least": least,
                    "precision": off.prefetch_precision,
                    "paused": on.prefetch_paused,
                    "off_against_none": faster(off, plain),
                    "against_none": faster(on, plain),
                    "against_off": faster(on, off),
                }


def summary(rows: list[Row]) -> None:
    """Print a line a predictor and machine: the worst cells."""
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["predictor"], row["link"]), []).append(row)
    lines = []
    for (word, name), mine in cells.items():
        ends = [[row[key] or 0.0 for row in mine] for key in ("precision", "paused")]
        least = [
            min(row[key] for row in mine)
            for key in ("off_against_none", "against_none", "against_off")
        ]
        spans = [f"{min(each):.2f} to {max(each):.2f}" for each in ends]
        lines.append((word, name, *spans, *least))
    head = "predictor, link, precision, paused, off / none, on / none, on / off"
    table(head.split(", "), lines)
