"""The sections of a result row that are made of counts and of measured seconds."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import ceil
from typing import TYPE_CHECKING, Any

from moex.cache.stats import CacheStats
from moex.runs.sections import Accesses, Bytes, Prefetches, Prefill, Speed, Transfers
from moex.types import DECODE, PREFILL

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from moex.cache.stats import Counts
    from moex.types import Geometry


@dataclass
class Clocked:
    """Measurements of one phase by a real or virtual clock; seconds and bytes."""

    passes: int = 0
    tokens: int = 0
    seconds: float = 0.0
    stall_s: float = 0.0
    link_busy_s: float = 0.0
    bytes_moved: int = 0


def measured(
    layer_stats: Sequence[CacheStats],
    clocked: Mapping[str, Clocked] | None,
    by_rows: bool = False,
    slots: float | None = None,
    tokens: int = 0,
) -> Iterator[object]:
    """Yield the sections of what was counted and clocked.

    Args:
        layer_stats: the statistics of each layer; empty if nothing was counted.
        clocked: measurements by phase; None without a clock.
        by_rows: whether rows of experts were moved, not whole ones.
        slots: of a layer; None if there are none.
        tokens: that were decoded.
    """
    total = CacheStats.total(layer_stats) if layer_stats else None
    if total:
        counts = total.phases[DECODE]
        moved = counts.bytes_demand + counts.bytes_prefetch
        if clocked:
            moved = clocked[DECODE].bytes_moved
        yield accesses(counts, moved, total.geometry, layer_stats, by_rows, slots)
        yield prefetches(counts)
        yield issued(counts, moved, tokens)
    if clocked:
        yield speed(clocked[PREFILL], clocked[DECODE])
        yield transfers(clocked[DECODE])
    counted = total.phases[PREFILL] if total else None
    yield prefill(counted, clocked[PREFILL] if clocked else None)


def speed(prefill: Clocked, decode: Clocked) -> Speed:
    """Return the speed of both phases."""
    return Speed(
        tokens_prefill=prefill.tokens,
        tokens_decode=decode.tokens,
        ttft_s=ratio(prefill.seconds, prefill.passes),
        tpot_s=ratio(decode.seconds, decode.passes),
        decode_s=decode.seconds,
        tokens_per_second=ratio(decode.tokens, decode.seconds),
    )


def by_request(series: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return percentiles over requests of the time to first token and per later token, seconds.

    By nearest rank: each value is that of a request. Those of one batch have the same times.

    Args:
        series: the passes of a round, in order: `phase`, `seconds`, and in decoding `tokens`, one
            for each request of the batch.
    """
    first: list[float] = []
    later: list[float] = []
    passes: list[list[Mapping[str, Any]]] = []
    for line in series:
        if line["phase"] == PREFILL:
            passes.append([])
        passes[-1].append(line)
    for begun, *decoding in passes:
        if decoding:
            requests = decoding[0]["tokens"]
            first += [begun["seconds"]] * requests
            later += [sum(line["seconds"] for line in decoding) / len(decoding)] * requests
    values = {"ttft": sorted(first), "tpot": sorted(later)}
    return {
        f"{name}_p{share}_s": known[ceil(len(known) * share / 100) - 1]
        for name, known in values.items()
        for share in (50, 95)
        if known
    }


def accesses(
    counts: Counts,
    moved: int,
    geometry: Geometry,
    layer_stats: Sequence[CacheStats],
    by_rows: bool = False,
    slots: float | None = None,
) -> Accesses:
    """Return the accesses of decoding; `moved` are the bytes that crossed the link."""
    decoding = [each.phases[DECODE] for each in layer_stats]
    hits = counts.prefetched_hits - counts.late_hits
    share = ratio(moved, counts.requests * geometry.expert_bytes)
    rows = ratio(counts.bytes_demand, counts.bytes_selected) if by_rows else None
    found = _as_counted(Accesses, counts)
    if not counts.host_hits + counts.host_loads:  # no host tier
        found |= {"host_hits": None, "host_loads": None}
    return Accesses(
        **found,
        prefetch_hits=hits,
        bits_demanded=bits_demanded(counts, geometry),
        experts_per_visit=ratio(counts.requests, counts.visits),
        regime=ratio(counts.requests, counts.visits * (slots or 0)),
        hit_rate=ratio(counts.resident_hits, counts.requests),
        effective_hit_rate=ratio(counts.resident_hits + hits, counts.requests),
        all_hit_rate=ratio(counts.visits - counts.waited_visits, counts.visits),
        byte_hit_rate=None if share is None else 1 - share,
        layer_hit_rates=[ratio(each.resident_hits, each.requests) for each in decoding],
        row_hit_rate=None if rows is None else 1 - rows,
    )


def bits_demanded(counts: Counts, geometry: Geometry) -> float | None:
    """Return the bits per weight that accesses asked for, their mean; None without slices."""
    weights = counts.requests * 3 * geometry.hidden * geometry.intermediate
    return ratio(8 * counts.bytes_wanted, weights) if counts.bytes_wanted else None


def prefetches(counts: Counts) -> Prefetches:
    """Return the prefetches of decoding."""
    hits = counts.prefetched_hits
    return Prefetches(
        **_as_counted(Prefetches, counts),
        prefetch_precision=ratio(counts.prefetch_used, counts.prefetch_issued),
        prefetch_coverage=ratio(hits, hits + counts.partial_hits + counts.demand_misses),
        prefetch_paused=ratio(counts.paused_visits, counts.visits),
    )


def issued(counts: Counts, moved: int, tokens: int) -> Bytes:
    """Return the bytes of decoding; without a neuron selector, none are selected."""
    found = _as_counted(Bytes, counts) | {"bytes_selected": counts.bytes_selected or None}
    return Bytes(**found, bytes_moved=moved, bytes_moved_per_token=ratio(moved, tokens))


def transfers(decode: Clocked) -> Transfers:
    """Return the transfers of decoding."""
    return Transfers(
        stall_s=decode.stall_s,
        stall_share=ratio(decode.stall_s, decode.seconds),
        hidden_transfer_s=max(0.0, decode.link_busy_s - decode.stall_s),
        link_bytes_per_s=ratio(decode.bytes_moved, decode.link_busy_s),
    )


def prefill(counts: Counts | None, clocked: Clocked | None) -> Prefill:
    """Return what was counted and clocked of prefill, as far as it was."""
    section = Prefill(prefill_s=clocked.seconds if clocked else None)
    if counts is not None:
        vars(section).update(_as_counted(Prefill, counts, "prefill_"))
        section.prefill_prefetch_hits = counts.prefetched_hits - counts.late_hits
    return section


def _as_counted(section: type, counts: Counts, prefix: str = "") -> dict[str, Any]:
    """Return the fields of a section that have the name of a count, after a prefix."""
    names = [each.name for each in fields(section)]
    known = {prefix + name: count for name, count in vars(counts).items()}
    return {name: known[name] for name in names if name in known}


def ratio(part: float, whole: float) -> float | None:
    """Return `part / whole`, or None if `whole` is 0."""
    return part / whole if whole else None
