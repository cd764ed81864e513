"""`mode=plan`: what fits, what a token costs and what is needed, before any download."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.cache.limits import uneven
from moex.cache.lru import LRU
from moex.cache.tiers import TieredCache, described
from moex.decisions.decisions import Decisions
from moex.decisions.rows import whole_from
from moex.hardware.forecast import forecast
from moex.modes.allocate import allocated
from moex.modes.common import measure_hardware, sized
from moex.runs.report import Report
from moex.types import Future

if TYPE_CHECKING:
    from pathlib import Path

    from moex.cache.core import ExpertCache
    from moex.cache.memory import Needs
    from moex.hardware.profile import HardwareProfile
    from moex.modes.run import Run
    from moex.types import Geometry


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
    lines, report = [], Report(source="plan", mode="plan", model=run.model.name)
    read = memory_needs.bytes_read(skeleton, stored.layers, wanted.skeleton)
    for width in [bits, *(w for w in run.mode.bits if w < bits)]:
        geometry = stored._replace(expert_bytes=int(stored.expert_bytes * width / bits))
        try:
            cache = decisions.build(geometry, needs=wanted, loads=Future(()))
        except ValueError as error:
            lines.append(f"{width:g} bits: {error}")
            continue
        if width == bits or report.slots is None:
            report.expert_bits = width
            _fill(report, cache, wanted)
        lines.append(_line(width, cache))
        if memory.allocate is not None and width == report.expert_bits:
            slots, line = allocated(run, cache)
            report.layer_slots = uneven(slots)
            lines.append(f"  {line}")
        lines.append(_speeds(geometry, hardware, run.mode.hit_rates, **read))
    if report.slots is None:
        raise ValueError(lines[-1].partition(" bits: ")[2])
    # Neurons, and beside them whole experts for when most of one are wanted.
    twice = run.selects and bits == whole and whole_from(memory, hardware, "disk") < 1
    report.disk_bytes = stored.all_bytes * (1 + twice)
    lines.insert(0, _head(stored, wanted))
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


def _head(geometry: Geometry, wanted: Needs) -> str:
    return (
        f"{geometry.layers} MoE layers x {geometry.experts} experts, top-{geometry.top_k}; "
        f"experts {gigabytes(geometry.all_bytes)} in all, packed; the download is kept beside them "
        "unless model.keep_shards=false; on the device beside experts: skeleton "
        f"{gigabytes(wanted.skeleton)}, KV cache {gigabytes(wanted.kv_cache)}, workspace about "
        f"{gigabytes(wanted.workspace)}, predictor {gigabytes(wanted.predictor)}, "
        f"interpreter and libraries {gigabytes(wanted.process)}"
    )


def _line(width: float, cache: ExpertCache) -> str:
    geometry = cache.geometry
    held = sorted({*cache.layer_slots})
    slots = " to ".join(map(str, held[:: max(1, len(held) - 1)]))
    return (
        f"{width:g} bits: {geometry.expert_bytes / 1e6:.1f} MB per expert, "
        f"{gigabytes(geometry.token_bytes)}/token without any hit, "
        f"{slots} of {geometry.experts} slots per layer{_host(cache)}"
    )


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


def _speeds(
    geometry: Geometry, hardware: HardwareProfile, hit_rates: list[float], **read: int
) -> str:
    """Tokens/s by hit rate, with the costs that mode=simulate charges."""
    if not hardware.timed:
        return "  no speeds: this profile names no link; try hardware=rtx3060"
    here = hardware.on(geometry, **read)
    each = (forecast(geometry, here, rate) for rate in hit_rates)
    speeds = ", ".join(f"{x.hit_rate:.0%}: {x.plain:.3g} to {x.hidden:.3g}" for x in each)
    costs = f"; costs scaled from {hardware.fitted_on}" if here is not hardware else ""
    return (
        f"  on {hardware.name}, tokens/s by hit rate, without prefetching to all loads hidden: "
        f"{speeds}{costs}"
    )


def gigabytes(size: int) -> str:
    """Bytes as people read them."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
