"""`mode=curves`: the miss-ratio curve of a policy on a recorded trace, without torch."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from moex.runs.atomic import write_atomically
from moex.runs.report import Report

if TYPE_CHECKING:
    from pathlib import Path

    from moex.modes.run import Run
    from moex.sim.curves.stack import Curve

SHOWN = 8
"""Capacities that are shown on the screen; the file has all."""


def run(run: Run, folder: Path) -> Report:
    """Replay the trace at every capacity; write `curve.json`."""
    from moex.api import Trace, open_trace
    from moex.sim.curves.policies import policy_curve

    if not run.trace:
        raise ValueError(
            "trace=null: mode=curves replays a recorded trace; try trace=tiny, or "
            "trace=results/<run_id>/trace.parquet (every mode=live run writes one)"
        )
    trace = open_trace(run.trace, in_memory=sys.maxsize)
    assert isinstance(trace, Trace)
    cold = bool(trace.provenance.get("cold", run.settings["workload"].get("cold")))
    curve = policy_curve(trace, run.cache, None, run.memory.pool, cold, seed=run.seed)
    columns = {
        "slots": curve.slots.tolist(),
        "hits": curve.hits.tolist(),
        "hit_rate": curve.hit_rate.tolist(),
        "all_hits": curve.all_hits.tolist(),
        "method": list(curve.method),
    }
    whole = {"requests": curve.requests, "visits": curve.visits}
    write_atomically(folder / "curve.json", json.dumps({**columns, **whole}) + "\n")
    return Report(
        source="sim",
        mode="curves",
        policy=type(run.cache).__name__,
        pool=run.memory.pool,
        requests=curve.requests,
        oracle="future" in run.cache.needs,
        workload=str(trace.provenance.get("workload", "")),
        bottleneck=_shown(curve),
    )


def _shown(curve: Curve) -> str:
    """Return the hit rates of some capacities, from the smallest to the largest."""
    last = len(curve.slots) - 1
    chosen = sorted({round(last * step / (SHOWN - 1)) for step in range(SHOWN)})
    each = [f"{curve.slots[at]} slots {curve.hit_rate[at]:.3f}" for at in chosen]
    return f"hit rate by slots a layer: {', '.join(each)}; all in curve.json"
