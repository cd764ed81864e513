"""The sections of a result row, in the order of its fields; one function fills each.

Every field is defined in analysis/README.md#metrics. Prefill and decode are never pooled: counts of
accesses, bytes or waits are of decoding, unless their name starts with `prefill_`. None stands
where a run does not measure a value.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SCHEMA = 2


@dataclass
class Identity:
    """What was run, by `bench.setup.describe`, the simulator or a mode; chosen names by `cli`."""

    run_id: str = ""
    source: str = ""
    mode: str = ""
    model: str = ""
    runner: str = ""
    policy: str = ""
    prefetcher: str = ""
    governor: str | None = None
    quant: str = "none"
    bits_per_weight: float | None = None
    kernel: str | None = None
    sparsity: str = "none"
    miss: str = "fetch"
    routing: str = "none"
    residency_dependent: bool = False
    link: str = ""
    store: str = ""
    io: str | None = None
    pinned: bool | None = None
    files_warm: bool | None = None
    hardware: str = ""
    host_bytes_per_s: float | None = None
    slots: int | float | None = None
    layer_slots: list[int] = field(default_factory=list)
    pool: str | None = None
    shards: int | None = None
    capacity_bytes: int | None = None
    host_bytes: int | None = None
    host_policy: str | None = None
    tiers: str | None = None
    disk_bytes_per_s: float | None = None
    host_copy_bytes_per_s: float | None = None
    predictor_bytes: int | None = None
    rows: float | None = None
    break_even: float | None = None
    rows_moved: bool | None = None
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
    replay: str | None = field(default=None, compare=False)  # decides no other field
    interpreted_because: str | None = field(default=None, compare=False)
    off_policy: bool = False
    smoke: bool = False


@dataclass
class Speed:
    """How fast it was, by `measured.speed`; repeats, requests and energy by `bench.rounds`."""

    tokens_prefill: int = 0
    tokens_decode: int = 0
    ttft_s: float | None = None
    ttft_p50_s: float | None = None
    ttft_p95_s: float | None = None
    tpot_s: float | None = None
    tpot_p50_s: float | None = None
    tpot_p95_s: float | None = None
    decode_s: float | None = None
    decode_lower_bound_s: float | None = None
    tokens_per_second: float | None = None
    tokens_per_second_iqr: float | None = None
    repeats: int = 1
    drift: float | None = None
    cpu_joules: float | None = None
    gpu_joules: float | None = None


@dataclass
class Accesses:
    """What decoding demanded and where it was found, by `measured.accesses`."""

    requests: int | None = None
    experts_per_visit: float | None = None
    regime: float | None = None
    resident_hits: int | None = None
    prefetch_hits: int | None = None
    late_hits: int | None = None
    partial_hits: int | None = None
    demand_misses: int | None = None
    host_computed: int | None = None
    host_hits: int | None = None
    host_loads: int | None = None
    skipped: int | None = None
    deferred: int | None = None
    swap_rate: float | None = None
    drop_rate: float | None = None
    bits_demanded: float | None = None
    hit_rate: float | None = None
    effective_hit_rate: float | None = None
    all_hit_rate: float | None = None
    byte_hit_rate: float | None = None
    layer_hit_rates: list[float | None] = field(default_factory=list)
    row_hit_rate: float | None = None


@dataclass
class Prefetches:
    """What was prefetched and whether it was used, by `measured.prefetches`."""

    prefetch_issued: int | None = None
    prefetch_used: int | None = None
    prefetch_wasted: int | None = None
    prefetch_precision: float | None = None
    prefetch_coverage: float | None = None
    prefetch_paused: float | None = None
    background_loads: int | None = None


@dataclass
class Bytes:
    """Bytes of loads that decoding issued and that moved, by `measured.issued`."""

    bytes_selected: int | None = None
    bytes_demand: int | None = None
    bytes_prefetch: int | None = None
    bytes_wasted: int | None = None
    bytes_moved: int | None = None
    bytes_moved_per_token: float | None = None


@dataclass
class Transfers:
    """How long decoding waited for transfers and how fast they were, by `measured.transfers`."""

    stall_s: float | None = None
    stall_share: float | None = None
    hidden_transfer_s: float | None = None
    link_bytes_per_s: float | None = None


@dataclass
class Peaks:
    """Memory: as planned by `bench.setup.describe` or `mode=plan`, as used by `bench.rounds`.

    The limit is set by `runs.limit`.
    """

    memory_limit: int | None = None
    planned_device_bytes: int | None = None
    peak_device_bytes: int | None = None
    peak_host_bytes: int | None = None


@dataclass
class Prefill:
    """Counts and seconds of prompts, by `measured.prefill`."""

    prefill_requests: int | None = None
    prefill_resident_hits: int | None = None
    prefill_prefetch_hits: int | None = None
    prefill_late_hits: int | None = None
    prefill_demand_misses: int | None = None
    prefill_s: float | None = None
    prefill_bytes_demand: int | None = None
    prefill_bytes_prefetch: int | None = None


@dataclass
class Equality:
    """How equal logits and texts are to stock transformers; by `bench.equality.compare`.

    Args:
        equality: `bit-equal` (every logit of a new token and all hidden states of every layer),
            `token-equal` (the same texts when each model continues its own), or `approximate`.
        max_logit_diff: largest difference of two logits, both models continuing stock's tokens.
        kl: Kullback-Leibler divergence of the next token's distribution from stock's; mean, nats.
        first_diverging_token: number of the first new token that differs in any prompt's text.
        first_diverging_layer: decoder layer whose output differs first; -1 is the embedding.
    """

    equality: str | None = None
    max_logit_diff: float | None = None
    kl: float | None = None
    first_diverging_token: int | None = None
    first_diverging_layer: int | None = None


@dataclass
class Findings:
    """What limited the run; accuracy, by `modes.accuracy`."""

    bottleneck: str | None = None
    costs: str | None = None
    accuracy_key: str | None = None
    tasks: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Provenance:
    """Code, versions, machine and time; by `cli.app`."""

    code: str = ""
    git: str = ""
    dirty: bool = False
    versions: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    started: str = ""
    schema: int = SCHEMA
