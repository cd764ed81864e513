"""`mode=plan`: what fits, what a token costs and what is needed, before any download."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any

from moex.cache.limits import uneven
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.cache.variants.tiers import TieredCache, described
from moex.decisions.decisions import Decisions
from moex.decisions.rows import whole_from
from moex.hardware.forecast import forecast
from moex.hardware.tiered_link import in_series
from moex.modes.allocate import allocated
from moex.modes.common import measure_hardware, sized
from moex.runs.report import Report
from moex.sim.bottleneck import LONGEST
from moex.sim.replay import replay
from moex.trace.files import open_trace
from moex.types import Future

if TYPE_CHECKING:
    from pathlib import Path

    from moex.cache.core import ExpertCache
    from moex.cache.memory import Needs
    from moex.hardware.profile import HardwareProfile
    from moex.modes.run import Run
    from moex.types import Geometry

BUNDLED = ("tiny", "synthetic_mixtral")
"""Recorded traces, of which the one most like the model gives its hit rate."""


def run(run: Run, folder: Path) -> Report:
    """Read the configuration, no weights, and do the sums."""
    from moex.models import memory_needs

    measure_hardware(run)
    memory, hardware = run.memory, run.hardware
    if not run.selects:
        memory.refuse_rows()
    skeleton, stored, wanted = sized(run, run.workload)
    plain, _ = memory_needs.sizes(skeleton)
    whole = 8 * skeleton.dtype.itemsize
    bits = round(whole * stored.expert_bytes / plain.expert_bytes, 2)
    decisions = Decisions(LRU(), memory, neurons=run.selector.share if run.selector else None)
    lines, fits = [], []
    report = Report(source="plan", mode="plan", model=run.model.name)
    read = memory_needs.bytes_read(skeleton, stored.layers, wanted.skeleton)
    for width in [bits, *(w for w in run.mode.bits if w < bits)]:
        geometry = stored._replace(expert_bytes=int(stored.expert_bytes * width / bits))
        try:
            cache = decisions.build(geometry, needs=wanted, loads=Future(()))
        except ValueError as error:
            lines.append(f"{width:g} bits: {error}")
            fits.append(f"{width:g} bits: no")
            continue
        if width == bits or report.slots is None:
            report.expert_bits = width
            _fill(report, cache, wanted)
        fits.append(f"{width:g} bits: {_slots(cache)} of {geometry.experts} experts a layer")
        lines.append(_line(width, cache))
        if memory.allocate is not None and width == report.expert_bits:
            slots, line = allocated(run, cache)
            report.layer_slots = uneven(slots)
            lines.append(f"  {line}")
        here = hardware.on(geometry, **read) if hardware.timed else None
        if here is None:
            lines.append("  no speeds: this profile names no link; try hardware=rtx3060")
            continue
        if isinstance(cache, TieredCache):
            missing = 1 - cache.host.capacity / (geometry.layers * geometry.experts)
            here = in_series(here, missing)
            lines.append(f"  {missing:.0%} of the loads are read from the disk, if all are alike")
        rate = _hit_rate(run.trace, geometry, cache.slots)
        lines.append(_expected(geometry, here, _slots(cache), *rate))
        lines.append(_speeds(geometry, here, run.mode.hit_rates, hardware))
    if report.slots is None:
        raise ValueError("Fits: no; " + lines[-1].partition(" bits: ")[2])
    # Neurons, and beside them whole experts for when most of one are wanted.
    twice = run.selects and bits == whole and whole_from(memory, hardware, "disk") < 1
    report.disk_bytes = stored.all_bytes * (1 + twice)
    within = "" if memory.budget is None else f" within memory.budget={memory.budget}"
    lines[:0] = [
        f"Fits: yes, {report.model}{within} ({'; '.join(fits)})",
        *_head(run, report, stored, wanted),
    ]
    report.bottleneck = "\n".join(lines)
    return report


def _fill(report: Report, cache: ExpertCache, wanted: Needs) -> None:
    geometry = cache.geometry
    capacity = cache.total_slots * geometry.expert_bytes
    report.fill(
        slots=cache.slots,
        layer_slots=uneven(cache.layer_slots),
        pool=cache.pool,
        **described(cache),
        expert_bytes=geometry.expert_bytes,
        bytes_per_token=geometry.token_bytes,
        capacity_bytes=capacity,
        skeleton_bytes=wanted.skeleton,
        planned_device_bytes=wanted.total + capacity,
    )


def _head(run: Run, report: Report, geometry: Geometry, wanted: Needs) -> list[str]:
    """What the configuration needs of the device, of the host and of the disk."""
    workload, disk = run.workload, gigabytes(report.disk_bytes or 0)
    context = (workload.prompt_tokens or 0) + workload.new_tokens
    parts = {
        "skeleton": wanted.skeleton,
        f"KV cache of {context:,} tokens x {workload.batch_size}": wanted.kv_cache,
        "workspace about": wanted.workspace,
        "predictor": wanted.predictor,
        "slots and staging": report.capacity_bytes or 0,
        "interpreter and libraries": wanted.process,
    }
    used = ", ".join(f"{name} {gigabytes(size)}" for name, size in parts.items() if size)
    return [
        f"device memory: {gigabytes(report.planned_device_bytes or 0)}: {used}",
        f"host memory: {_all_experts(report, geometry)} for all experts with memory.store=ram; "
        "with memory.store=disk none of them",
        f"disk: {disk} for packed experts, beside the download, which model.keep_shards=false "
        "does not keep",
        f"{geometry.layers} MoE layers x {geometry.experts} experts, top-{geometry.top_k}; another "
        "context: workload.prompt_tokens=4096 workload.new_tokens=512",
    ]


def _all_experts(report: Report, stored: Geometry) -> str:
    """Bytes of all experts, as they are stored and in the bits that fit."""
    fitting = stored._replace(expert_bytes=report.expert_bytes or stored.expert_bytes)
    if fitting == stored:
        return gigabytes(stored.all_bytes)
    smaller = f"{gigabytes(fitting.all_bytes)} in {report.expert_bits:g} bits"
    return f"{gigabytes(stored.all_bytes)} as the checkpoint has them, {smaller},"


def _line(width: float, cache: ExpertCache) -> str:
    geometry = cache.geometry
    return (
        f"{width:g} bits: {geometry.expert_bytes / 1e6:.1f} MB per expert, "
        f"{gigabytes(geometry.token_bytes)}/token without any hit, "
        f"{_slots(cache)} of {geometry.experts} slots per layer{_host(cache)}"
    )


def _slots(cache: ExpertCache) -> str:
    """The slots of a layer: a number, or the least and the most."""
    held = sorted({*cache.layer_slots})
    return " to ".join(map(str, held[:: max(1, len(held) - 1)]))


def _host(cache: ExpertCache) -> str:
    """What the host tier holds, if there is one."""
    if not isinstance(cache, TieredCache):
        return ""
    geometry, host = cache.geometry, cache.host
    every = geometry.layers * geometry.experts
    return (
        f", {host.capacity} of {every} experts in host memory "
        f"({gigabytes(host.slots * geometry.expert_bytes)} with staging, {host.tiers})"
    )


def _hit_rate(given: Any, geometry: Geometry, slots: float) -> tuple[float, str]:
    """LRU's hit rate with the same share of slots on a recorded trace, and the trace in words.

    Of the bundled traces, the one of the most similar geometry; or that which `trace=` names.
    """
    names = BUNDLED if given in (None, *BUNDLED) else [given]
    traces = {str(name): open_trace(name) for name in names}
    name = min(traces, key=lambda each: _distance(traces[each].geometry, geometry))
    trace = traces[name]
    shape, part = trace.geometry, trace.select(slice(LONGEST))
    same = round(shape.experts * slots / geometry.experts)
    report = replay(Decisions(LRU(), Memory(min(same, shape.experts))), part, None, False)
    what = f"{shape.layers} layers x {shape.experts} experts, top-{shape.top_k}, {same} slots"
    return report.hit_rate or 0.0, f"trace={name} ({what})"


def _distance(one: Geometry, other: Geometry) -> tuple[float, int]:
    """How far two geometries are apart, for caching: experts and top-k, then layers."""
    sizes = ((one.experts, other.experts), (one.top_k, other.top_k))
    return sum(abs(log(a / b)) for a, b in sizes), abs(one.layers - other.layers)


def _expected(
    geometry: Geometry, hardware: HardwareProfile, slots: str, rate: float, trace: str
) -> str:
    """Tokens/s with all experts resident, and with the slots that fit."""
    full, here = forecast(geometry, hardware, 1.0), forecast(geometry, hardware, rate)
    return (
        f"  on {hardware.name}: all resident {full.plain:.3g} tokens/s; with {slots} slots about "
        f"{here.plain:.3g} (no prefetching) to {here.hidden:.3g} (all loads hidden), at LRU's hit "
        f"rate {rate:.0%} with the same share of slots on {trace}"
    )


def _speeds(
    geometry: Geometry, here: HardwareProfile, hit_rates: list[float], given: HardwareProfile
) -> str:
    """Tokens/s by hit rate, with the costs that mode=simulate charges."""
    each = (forecast(geometry, here, rate) for rate in hit_rates)
    speeds = ", ".join(f"{x.hit_rate:.0%}: {x.plain:.3g} to {x.hidden:.3g}" for x in each)
    costs = f"; costs scaled from {given.fitted_on}" if here is not given else ""
    return (
        f"  on {given.name}, tokens/s by hit rate, without prefetching to all loads hidden: "
        f"{speeds}{costs}"
    )


def gigabytes(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
