"""`mode=simulate`: replay a recorded trace, without torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.cache.capacity import Memory
from moex.identity import trace_path
from moex.modes.common import selects, write_counts

if TYPE_CHECKING:
    from moex.modes.common import Build
    from moex.report import Report
    from moex.trace.format import Trace


SMOKE_TOKENS = 32
"""Of the trace, with smoke=true."""


def run(config: Any, folder: Path, build: Build) -> Report:
    """Replay a recorded trace."""
    from moex.api import read_trace
    from moex.cache.core import ExpertCache
    from moex.sim.rows import row_cache
    from moex.sim.simulator import simulate as replay

    if not config.trace:
        raise ValueError(
            "trace=null: mode=simulate replays a recorded trace; try trace=tiny, or "
            "trace=results/<run_id>/trace.parquet (every mode=live run writes one)"
        )
    trace, memory = read_trace(trace_path(config.trace)), Memory(**config.memory)
    if config.smoke:
        trace = trace.select(slice(SMOKE_TOKENS * trace.geometry.layers))
    policy, prefetcher, hardware = (
        build(config[group]) for group in ("cache", "prefetch", "hardware")
    )
    miss = build(config.miss).bound(trace.geometry, hardware)
    cache = ExpertCache(
        policy,
        trace.geometry,
        memory.resolve(trace.geometry),
        memory.pool,
        memory.staging,
        config.seed,
        trace.future() if "future" in policy.needs else None,
        miss.split,
    )
    neurons = None
    if selects(config):
        _same_selection(trace, config)
        recorded = str(trace.provenance.get("store", "ram"))
        store = recorded if memory.store == "auto" else memory.store
        neurons = row_cache(cache, memory, hardware, store)
    else:
        memory.refuse_rows()
    cold = bool(trace.provenance.get("cold", config.workload.cold))
    report = replay(trace, cache, prefetcher, hardware, cold, neurons=neurons)
    write_counts(trace, folder)
    if config.verdict:
        from moex.sim.verdict import judge

        report.verdict = str(judge(trace, cache, prefetcher, hardware, cold, neurons))
    if miss.lossy:
        report.lossy.append("miss")
    if neurons is not None:
        report.lossy.append("sparsity")
        report.rows, report.break_even = memory.rows, neurons.break_even
    trained = neurons is not None or "recorded" in prefetcher.needs
    report.predictor_bytes = int((trained and trace.provenance.get("predictor_bytes")) or 0)
    report.capacity_bytes = (report.capacity_bytes or 0) + report.predictor_bytes
    report.oracle = "future" in policy.needs | prefetcher.needs
    report.model = str(trace.provenance.get("model", ""))
    report.workload = str(trace.provenance.get("workload", Path(config.trace).stem))
    return report


def _same_selection(trace: Trace, config: Any) -> None:
    """Rows are what the recorded run selected: with another setting they would be others."""
    recorded = trace.provenance.get("sparsity")
    asked = dict(config.sparsity)
    if recorded not in (None, asked, {"name": "none"}):
        raise ValueError(
            f"sparsity: the trace was recorded with {recorded}, asked for is {asked}; expected the "
            "same, because a replay moves the rows that were selected there; record another one"
        )
