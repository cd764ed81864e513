"""The result row of a run: flat, with the same fields live or simulated.

Every field is defined in analysis/README.md#metrics. Prefill and decode are never pooled: counts of
accesses, bytes or waits are of decoding, unless their name starts with `prefill_`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.cache.stats import CacheStats
from moex.runs.atomic import write_atomically
from moex.types import DECODE, PREFILL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.cache.stats import Counts

SCHEMA = 2
AS_COUNTED = (
    "requests", "resident_hits", "late_hits", "partial_hits", "demand_misses", "host_computed",
    "skipped", "prefetch_issued", "prefetch_wasted",
    "bytes_demand", "bytes_prefetch", "bytes_wasted",
)  # fmt: skip
"""Fields of `Counts` that the row has under the same name."""


@dataclass
class Clocked:
    """Measurements of one phase by a real or virtual clock; seconds and bytes."""

    passes: int = 0
    tokens: int = 0
    seconds: float = 0.0
    stall_s: float = 0.0
    link_busy_s: float = 0.0
    bytes_moved: int = 0


@dataclass
class Report:
    """One row of results; None where the run does not measure the value."""

    run_id: str = ""
    source: str = ""
    mode: str = ""
    model: str = ""
    runner: str = ""
    policy: str = ""
    prefetcher: str = ""
    quant: str = "none"
    bits_per_weight: float | None = None
    kernel: str | None = None
    sparsity: str = "none"
    miss: str = "fetch"
    link: str = ""
    store: str = ""
    io: str | None = None
    pinned: bool | None = None
    files_warm: bool | None = None
    hardware: str = ""
    slots: int | None = None
    pool: str | None = None
    capacity_bytes: int | None = None
    predictor_bytes: int | None = None
    rows: float | None = None
    break_even: float | None = None
    prefill_masks: str | None = None
    skeleton_bytes: int | None = None
    expert_bytes: int | None = None
    expert_bits: float | None = None
    bytes_per_token: int | None = None
    disk_bytes: int | None = None
    workload: str = ""
    seed: int = 0
    lossy: list[str] = field(default_factory=list)
    emulated: bool = False
    oracle: bool = False
    random_weights: bool = False
    replayed_routing: bool = False
    smoke: bool = False

    tokens_prefill: int = 0
    tokens_decode: int = 0
    ttft_s: float | None = None
    tpot_s: float | None = None
    decode_s: float | None = None
    decode_lower_bound_s: float | None = None
    tokens_per_second: float | None = None
    tokens_per_second_iqr: float | None = None
    repeats: int = 1
    drift: float | None = None

    requests: int | None = None
    resident_hits: int | None = None
    prefetch_hits: int | None = None
    late_hits: int | None = None
    partial_hits: int | None = None
    demand_misses: int | None = None
    host_computed: int | None = None
    skipped: int | None = None
    hit_rate: float | None = None
    effective_hit_rate: float | None = None
    all_hit_rate: float | None = None
    byte_hit_rate: float | None = None
    layer_hit_rates: list[float | None] = field(default_factory=list)
    row_hit_rate: float | None = None

    prefetch_issued: int | None = None
    prefetch_used: int | None = None
    prefetch_wasted: int | None = None
    prefetch_precision: float | None = None
    prefetch_coverage: float | None = None

    bytes_selected: int | None = None
    bytes_demand: int | None = None
    bytes_prefetch: int | None = None
    bytes_wasted: int | None = None
    bytes_moved: int | None = None
    stall_s: float | None = None
    stall_share: float | None = None
    hidden_transfer_s: float | None = None
    link_bytes_per_s: float | None = None
    planned_device_bytes: int | None = None
    peak_device_bytes: int | None = None
    peak_host_bytes: int | None = None

    prefill_requests: int | None = None
    prefill_resident_hits: int | None = None
    prefill_prefetch_hits: int | None = None
    prefill_late_hits: int | None = None
    prefill_demand_misses: int | None = None
    prefill_s: float | None = None
    prefill_bytes_demand: int | None = None
    prefill_bytes_prefetch: int | None = None

    equality: str | None = None
    max_logit_diff: float | None = None
    kl: float | None = None
    first_diverging_token: int | None = None
    first_diverging_layer: int | None = None

    bottleneck: str | None = None
    accuracy_key: str | None = None
    tasks: list[dict[str, Any]] = field(default_factory=list)

    code: str = ""
    git: str = ""
    dirty: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    started: str = ""
    schema: int = SCHEMA

    def fill(self, layer_stats: Sequence[CacheStats], clocked: dict[str, Clocked] | None) -> None:
        """Fill in counts, from the statistics of each layer, and speeds if there was a clock."""
        cache_stats = CacheStats.total(layer_stats)
        decoding = [each.phases[DECODE] for each in layer_stats]
        self.layer_hit_rates = [ratio(each.resident_hits, each.requests) for each in decoding]
        self._fill_counts(cache_stats.phases[DECODE], cache_stats.geometry.expert_bytes, clocked)
        prefill = cache_stats.phases[PREFILL]
        self.prefill_requests = prefill.requests
        self.prefill_resident_hits = prefill.resident_hits
        self.prefill_prefetch_hits = prefill.prefetched_hits - prefill.late_hits
        self.prefill_late_hits = prefill.late_hits
        self.prefill_demand_misses = prefill.demand_misses
        self.prefill_bytes_demand = prefill.bytes_demand
        self.prefill_bytes_prefetch = prefill.bytes_prefetch
        if clocked is not None:
            self.fill_times(clocked)

    def _fill_counts(
        self, counts: Counts, expert_bytes: int, clocked: dict[str, Clocked] | None
    ) -> None:
        for name in AS_COUNTED:
            setattr(self, name, getattr(counts, name))
        self.prefetch_hits = counts.prefetched_hits - counts.late_hits
        self.prefetch_used = counts.prefetch_used
        self.bytes_moved = (
            clocked[DECODE].bytes_moved
            if clocked is not None
            else counts.bytes_demand + counts.bytes_prefetch
        )
        requests = counts.requests
        self.hit_rate = ratio(counts.resident_hits, requests)
        self.effective_hit_rate = ratio(counts.resident_hits + self.prefetch_hits, requests)
        self.all_hit_rate = ratio(counts.visits - counts.waited_visits, counts.visits)
        moved = ratio(self.bytes_moved, requests * expert_bytes)
        self.byte_hit_rate = None if moved is None else 1 - moved
        if counts.bytes_selected:
            self.bytes_selected = counts.bytes_selected
            self.row_hit_rate = 1 - counts.bytes_demand / counts.bytes_selected
        self.prefetch_precision = ratio(counts.prefetch_used, counts.prefetch_issued)
        self.prefetch_coverage = ratio(
            counts.prefetched_hits,
            counts.prefetched_hits + counts.partial_hits + counts.demand_misses,
        )

    def fill_times(self, clocked: dict[str, Clocked]) -> None:
        """Fill in speeds."""
        decode, prefill = clocked[DECODE], clocked[PREFILL]
        self.tokens_decode, self.tokens_prefill = decode.tokens, prefill.tokens
        self.decode_s, self.prefill_s = decode.seconds, prefill.seconds
        self.ttft_s = ratio(prefill.seconds, prefill.passes)
        self.tpot_s = ratio(decode.seconds, decode.passes)
        self.tokens_per_second = ratio(decode.tokens, decode.seconds)
        self.stall_s = decode.stall_s
        self.stall_share = ratio(decode.stall_s, decode.seconds)
        self.hidden_transfer_s = max(0.0, decode.link_busy_s - decode.stall_s)
        self.link_bytes_per_s = ratio(decode.bytes_moved, decode.link_busy_s)

    def json(self) -> str:
        """Return the row as one line of JSON.

        Raises:
            ValueError: a field holds nan or an infinity, which JSON cannot express.
        """
        row = asdict(self)
        for name, value in row.items():
            try:
                json.dumps(value, allow_nan=False)
            except ValueError as error:
                raise ValueError(
                    f"row: {name}={value}; expected finite numbers: a part of this run computed "
                    "none; MOEX_TRACEBACK=1 shows where the row was written"
                ) from error
        return json.dumps(row)

    def write(self, folder: str | Path) -> Path:
        """Write `result.json` atomically: it exists only if the run has finished."""
        path = Path(folder) / "result.json"
        write_atomically(path, self.json() + "\n")
        return path


def ratio(part: float, whole: float) -> float | None:
    """Return `part / whole`, or None if `whole` is 0."""
    return part / whole if whole else None
