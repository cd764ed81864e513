"""Replays of traces from Python, without Hydra."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from moex.bench.replayed import describe_quant, packed, settings_of, within_budget
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.decisions.decisions import Decisions
from moex.named import parts, slots_of
from moex.paths import trace_path
from moex.sim.replay import decode_lower_bound_s, replay, replay_in_shards
from moex.sim.scaled import costs_line, scaled
from moex.trace.files import open_trace
from moex.trace.format import Trace, read_trace
from moex.trace.stream import TraceStream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from moex.cache.base import CachePolicy
    from moex.hardware.profile import HardwareProfile
    from moex.miss.base import MissHandler
    from moex.prefetch.base import Prefetcher
    from moex.quant.base import Scheme
    from moex.routing.base import RoutingPolicy
    from moex.runs.report import Report
    from moex.sim.curves.stack import Curve
    from moex.types import Plan


def simulate(
    trace: Trace | TraceStream | str | Path | Sequence[str | Path],
    cache: CachePolicy | str | None = None,
    slots: int | float | list[int] | None = None,
    prefetch: Prefetcher | str | None = None,
    *,
    budget: int | float | str | None = None,
    quant: Scheme | str | None = None,
    pool: str = "layer",
    staging: int | None = None,
    hardware: HardwareProfile | str | None = None,
    seed: int = 0,
    cold: bool = False,
    on_plan: Callable[[Plan], None] | None = None,
    miss: MissHandler | str | None = None,
    sparsity: bool = False,
    rows: float = 1.0,
    break_even: float | None = None,
    governor: bool = True,
    shards: int = 1,
    routing: RoutingPolicy | str | None = None,
    host: int | str | None = None,
    host_policy: str = "lru",
    tiers: str = "inclusive",
) -> Report:
    """Replay a trace (or its files, see `open_trace`) through the same cache; oracles know it all.

    The arguments are those of `moex.load`. A `budget` needs a trace of a live run; `quant` one of a
    model as it is, whose experts then have as many bytes as it packs them into. `cold` empties the
    cache before every sequence, `sparsity` moves only the rows that the recorded run selected;
    `hardware`'s costs are scaled to the trace's model; `routing` chooses anew from recorded router
    rows; `shards` replays a cold trace in so many shards of sequences. Loads no torch, but for
    `quant`.
    """
    given = parts(
        cache=cache,
        prefetch=prefetch,
        hardware=hardware,
        quant=quant,
        miss=miss,
        routing=routing,
    )
    machine, scheme = given["hardware"], given["quant"]
    trace = trace if isinstance(trace, Trace | TraceStream) else open_trace(trace)
    settings = settings_of(scheme)
    if scheme is not None:
        trace = packed(trace, scheme, settings, "cpu")
    else:
        settings = trace.provenance.get("quant", settings)
    memory = Memory(
        slots_of(slots, budget), budget, pool, staging, rows=rows, break_even=break_even
    )
    memory = replace(memory, host=host, host_policy=host_policy, tiers=tiers)
    memory = within_budget(memory, trace, settings, machine is not None and machine.timed)
    overlaps = trace.provenance.get("overlaps") is not False
    chosen = given["cache"] or LRU(), memory, given["prefetch"], given["miss"], seed
    decisions = Decisions(
        *chosen,
        0.0 if sparsity else None,
        governor=governor,
        overlaps=overlaps,
        routing=given["routing"],
        slices=tuple(trace.provenance.get("slices", ())),
    )
    here = None if machine is None else scaled(machine, trace)
    if shards > 1:
        report = replay_in_shards(decisions, trace, shards, here, cold)
    else:
        report = replay(decisions, trace, here, cold, on_plan)
    report.decode_lower_bound_s = decode_lower_bound_s(decisions, trace, here, cold)
    report.costs = None if machine is None else costs_line(machine, trace)
    if scheme is not None:
        timed = machine is not None and machine.timed
        describe_quant(report, trace, scheme, settings, timed)
    return report


def curves(
    trace: Trace | str | Path,
    *policies: CachePolicy | str,
    slots: Sequence[int] | None = None,
    pool: str = "layer",
    cold: bool = False,
    phase: str = "decode",
    seed: int = 0,
) -> list[Curve]:
    """Return the miss-ratio curve of each policy, without prefetching; default that of LRU.

    A curve has hits at every capacity: by default from top-k slots a layer up to all experts. The
    arguments are those of `simulate`; `phase` says which accesses are counted.
    """
    from moex.sim.curves.policies import policy_curve  # loads the compiler

    trace = trace if isinstance(trace, Trace) else read_trace(trace_path(str(trace)))
    settings = slots, pool, cold, phase, seed
    chosen = [parts(cache=policy)["cache"] for policy in policies or (LRU(),)]
    return [policy_curve(trace, policy, *settings) for policy in chosen]
