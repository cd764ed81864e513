"""`mode=simulate`: replay a recorded trace, without torch."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from moex.bench.replayed import describe_quant, packed, within_budget
from moex.modes.common import measure_hardware, write_counts
from moex.modes.shards import add_shards, replay_shard
from moex.paths import trace_files

if TYPE_CHECKING:
    from pathlib import Path

    from moex.decisions.decisions import Decisions
    from moex.modes.run import Run
    from moex.runs.report import Report
    from moex.trace.format import Trace
    from moex.trace.stream import TraceStream


SMOKE_TOKENS = 32
"""Of the trace, with smoke=true."""


def run(run: Run, folder: Path) -> Report:
    """Replay a recorded trace, or one shard of it."""
    from moex.sim.replay import decode_lower_bound_s, replay
    from moex.sim.scaled import costs_line, scaled
    from moex.trace.trace import Trace

    measure_hardware(run)
    trace = _trace(run)
    decisions, hardware = _decisions(trace, run), scaled(run.hardware, trace)
    cold = bool(trace.provenance.get("cold", run.settings["workload"].get("cold")))
    if run.shard is not None:
        return replay_shard(run, folder, decisions, trace, hardware, cold)
    if run.shards > 1:
        report = add_shards(run, folder, decisions, trace, hardware, cold)
    else:
        report = replay(decisions, trace, hardware, cold)
    report.decode_lower_bound_s = decode_lower_bound_s(decisions, trace, hardware, cold)
    report.costs = costs_line(run.hardware, trace)
    write_counts(trace, folder)
    if run.bottleneck:
        from moex.sim.bottleneck import LONGEST, analyze

        whole = isinstance(trace, Trace)
        part = trace if whole else trace.select(slice(LONGEST))
        report.bottleneck = str(analyze(part, decisions, hardware, cold))
        report.bottleneck += "" if whole else f" (of the first {LONGEST} visits)"
    if run.quant is not None:
        describe_quant(report, trace, run.quant, run.settings["quant"], hardware.timed)
    trained = run.selects or "recorded" in run.prefetch.needs
    report.predictor_bytes = int((trained and trace.provenance.get("predictor_bytes")) or 0)
    report.capacity_bytes = (report.capacity_bytes or 0) + report.predictor_bytes
    report.model = str(trace.provenance.get("model", ""))
    report.workload = str(trace.provenance.get("workload", trace_files(run.trace or "")[0].stem))
    return report


def _trace(run: Run) -> Trace | TraceStream:
    """Open the trace, shrunk and packed as the run says."""
    if not run.trace:
        raise ValueError(
            "trace=null: mode=simulate replays a recorded trace; try trace=tiny, or "
            "trace=results/<run_id>/trace.parquet (every mode=live run writes one)"
        )
    paths = trace_files(run.trace)
    found = [path.stat() for path in paths if path.is_file()]
    states = tuple((each.st_size, each.st_mtime_ns, each.st_ino) for each in found)
    trace = _opened(tuple(map(str, paths)), states)
    if run.smoke:
        trace = trace.select(slice(SMOKE_TOKENS * trace.geometry.layers))
    device = "cpu" if run.quant is None else run.settings["model"]["device"]
    trace = packed(trace, run.quant, run.settings["quant"], device, run.selects)
    if run.selects:
        _same_selection(trace, run.settings["sparsity"])
    return trace


@lru_cache(1)
def _opened(paths: tuple[str, ...], states: tuple[Any, ...]) -> Trace | TraceStream:
    """Open a trace once for all cells of a sweep that this process replays."""
    from moex.trace.files import open_trace

    return open_trace(paths)


def _decisions(trace: Trace | TraceStream, run: Run) -> Decisions:
    """Return the decisions of a replay: the run's, as far as the trace does not say otherwise."""
    from moex.decisions.decisions import Decisions

    recorded = str(trace.provenance.get("store", "ram"))
    store = recorded if run.memory.store == "auto" else run.memory.store
    overlaps = trace.provenance.get("overlaps") is not False
    if store != recorded:
        overlaps = store != "ram" or run.model.device != "cpu"
    memory = within_budget(run.memory, trace, run.settings["quant"], run.hardware.timed)
    if memory.break_even is None and not run.hardware.timed:  # a modelled link has its profile's
        memory = replace(memory, break_even=trace.provenance.get("break_even"))
    return Decisions(
        run.cache,
        memory,
        run.prefetch,
        run.miss,
        run.seed,
        run.selector.share if run.selector else None,
        store,
        run.governor,
        overlaps,
        run.routing,
        tuple(trace.provenance.get("slices", ())),
    )


def _same_selection(trace: Trace | TraceStream, asked: dict[str, Any]) -> None:
    """Rows are what the recorded run selected: with another setting they would be others."""
    recorded = trace.provenance.get("sparsity")
    if recorded not in (None, asked, {"name": "none"}):
        raise ValueError(
            f"sparsity: the trace was recorded with {recorded}, asked for is {asked}; expected the "
            "same, because a replay moves the rows that were selected there; record another one"
        )
