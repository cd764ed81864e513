"""`mode=simulate`: replay a recorded trace, without torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.cache.memory import Memory, Needs
from moex.modes.common import measure_hardware, write_counts
from moex.paths import trace_path
from moex.quant.base import quantizes

if TYPE_CHECKING:
    from moex.modes.run import Run
    from moex.quant.base import Spec
    from moex.runs.report import Report
    from moex.trace.format import Trace


SMOKE_TOKENS = 32
"""Of the trace, with smoke=true."""


def run(run: Run, folder: Path) -> Report:
    """Replay a recorded trace."""
    from moex.api import read_trace
    from moex.decisions.decisions import Decisions
    from moex.sim.replay import decode_lower_bound_s, replay
    from moex.sim.scaled import costs_line, scaled

    measure_hardware(run)
    if not run.trace:
        raise ValueError(
            "trace=null: mode=simulate replays a recorded trace; try trace=tiny, or "
            "trace=results/<run_id>/trace.parquet (every mode=live run writes one)"
        )
    trace = read_trace(trace_path(run.trace))
    if run.smoke:
        trace = trace.select(slice(SMOKE_TOKENS * trace.geometry.layers))
    trace = _packed(trace, run)
    if run.selects:
        _same_selection(trace, run.settings["sparsity"])
    recorded = str(trace.provenance.get("store", "ram"))
    store = recorded if run.memory.store == "auto" else run.memory.store
    overlaps = trace.provenance.get("overlaps") is not False
    if store != recorded:
        overlaps = store != "ram" or run.model.device != "cpu"
    hardware, memory = scaled(run.hardware, trace), _slots(trace, run)
    if memory.break_even is None and not hardware.timed:  # a modelled link has its profile's
        memory = replace(memory, break_even=trace.provenance.get("break_even"))
    decisions = Decisions(
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
    )
    cold = bool(trace.provenance.get("cold", run.settings["workload"].get("cold")))
    report = replay(decisions, trace, hardware, cold)
    report.decode_lower_bound_s = decode_lower_bound_s(decisions, trace, hardware, cold)
    report.costs = costs_line(run.hardware, trace)
    write_counts(trace, folder)
    if run.bottleneck:
        from moex.sim.bottleneck import analyze

        report.bottleneck = str(analyze(trace, decisions, hardware, cold))
    if run.quant is not None:
        shape = trace.geometry
        changed = quantizes(run.quant)
        report.lossy += ["quant"] * changed
        report.bits_per_weight = 8 * shape.expert_bytes / (3 * shape.hidden * shape.intermediate)
        recorded_quant = trace.provenance.get("quant")
        report.replayed_routing = changed and recorded_quant != run.settings["quant"]
        report.kernel = "not modelled" if hardware.timed else None
    trained = run.selects or "recorded" in run.prefetch.needs
    report.predictor_bytes = int((trained and trace.provenance.get("predictor_bytes")) or 0)
    report.capacity_bytes = (report.capacity_bytes or 0) + report.predictor_bytes
    report.model = str(trace.provenance.get("model", ""))
    report.workload = str(trace.provenance.get("workload", Path(run.trace).stem))
    return report


def _slots(trace: Trace, run: Run) -> Memory:
    """The memory with the slots that a live run has within its budget.

    A live run records the bytes beside experts. A timed profile stands for a device of its own,
    where interpreter and libraries take none, as in a live run that names it.

    Raises:
        ValueError: a budget, and a trace that does not record these bytes, or has other bits.
    """
    memory, needs = run.memory, trace.provenance.get("needs")
    if memory.budget is None:
        return memory
    changed = trace.provenance.get("quant", run.settings["quant"]) != run.settings["quant"]
    if needs is None or changed:
        lacks = "was recorded with another quant" if needs else "does not record them"
        shape = trace.geometry
        raise ValueError(
            f"memory.budget={memory.budget}: a budget also holds the bytes beside experts, and "
            f"this trace {lacks}; expected memory.slots; try memory.budget=null "
            f"memory.slots={min(shape.experts, 2 * shape.top_k)}"
        )
    wanted = Needs(**needs)
    if run.hardware.timed:
        wanted = replace(wanted, process=0)
    return replace(memory, slots=memory.resolve(trace.geometry, wanted), budget=None)


def _same_selection(trace: Trace, asked: dict[str, Any]) -> None:
    """Rows are what the recorded run selected: with another setting they would be others."""
    recorded = trace.provenance.get("sparsity")
    if recorded not in (None, asked, {"name": "none"}):
        raise ValueError(
            f"sparsity: the trace was recorded with {recorded}, asked for is {asked}; expected the "
            "same, because a replay moves the rows that were selected there; record another one"
        )


def _packed(trace: Trace, run: Run) -> Trace:
    """The trace with experts of as many bytes as the configured quantization packs them into.

    Raises:
        ValueError: recorded with another quantization, or experts whose shapes are not known.
    """
    recorded, asked = trace.provenance.get("quant", {"name": "none"}), run.settings["quant"]
    if recorded == asked or {"_target_"}.isdisjoint({*recorded, *asked}):
        return trace
    if "_target_" in recorded:
        raise ValueError(
            f"quant: the trace was recorded with {recorded}, asked for is {asked}; expected the "
            "same, or a trace of the model as it is, recorded with quant=none"
        )
    import torch

    from moex.quant.packing import ExpertPacking
    from moex.store.bundles import NeuronPacking
    from moex.store.layout import Planes

    shape = trace.geometry
    hidden, neurons = shape.hidden, shape.intermediate
    dtypes = {2: torch.bfloat16, 4: torch.float32}
    dtype = dtypes.get(shape.expert_bytes // (3 * hidden * neurons))
    tensors: dict[str, tuple[int, ...]]
    tensors = {"gate_up_proj": (2 * neurons, hidden), "down_proj": (hidden, neurons)}
    spec: Spec = {name: (sizes, dtype or torch.bfloat16) for name, sizes in tensors.items()}
    if dtype is None or Planes(spec).bytes != shape.expert_bytes:
        raise ValueError(
            f"quant with this trace: its experts have {shape.expert_bytes} bytes, which are not "
            f"gate, up and down of {neurons} x {hidden} in 16 or 32 bits; expected quant=none, "
            "or a trace recorded with that quantization"
        )
    assert run.quant is not None
    run.quant.bind(run.settings["model"]["device"], dtype)
    packing = ExpertPacking(spec, run.quant, transposed=False)
    layout = NeuronPacking(spec, run.quant).layout if run.selects else Planes(packing.tensors)
    return replace(trace, geometry=shape._replace(expert_bytes=layout.bytes))
