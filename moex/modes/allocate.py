"""`memory.allocate`: slots by layer from a recorded trace, for `mode=plan`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moex.cache.core import ExpertCache
    from moex.modes.run import Run


def allocated(run: Run, cache: ExpertCache) -> tuple[list[int], str]:
    """Return the slots of every layer, and a line with what to type and what it should save.

    All allocations have the slots that the plan found room for.

    Args:
        run: its trace, policy and seed.
        cache: of the plan, with equal slots.

    Raises:
        ValueError: no trace, or one of another model.
    """
    from moex.api import Trace, open_trace
    from moex.sim.allocation import allocate, expected, layer_loads, refuse_other

    how, given = run.memory.allocate, run.trace
    if not given:
        raise ValueError(
            f"memory.allocate={how}: expected a recorded trace to fit it on; "
            "try trace=results/RUN_ID/trace.parquet, or memory.allocate=null"
        )
    trace = open_trace(given, in_memory=sys.maxsize)
    assert isinstance(trace, Trace)
    refuse_other(trace, cache.geometry)
    cold = bool(trace.provenance.get("cold", run.settings["workload"].get("cold")))
    if how == "global":
        per_layer = int(cache.slots)
        return [per_layer] * cache.geometry.layers, (
            f"one pool of {per_layer * cache.geometry.layers} slots, which the policy shares out: "
            f"memory.pool=global memory.slots={per_layer}"
        )
    loads = layer_loads(trace, run.cache, cold, run.seed)
    total = sum(cache.layer_slots)
    slots, equal = (allocate(each, loads, total) for each in (how or "equal", "equal"))
    before, after = expected(loads, equal), expected(loads, slots)
    return slots, (
        f"allocate={how}, fitted on this trace with {type(run.cache).__name__}: {after} loads "
        f"in decoding, {before} with equal slots ({after / max(1, before) - 1:+.1%}): "
        f"memory.slots=[{','.join(map(str, slots))}]"
    )
