"""The offloaded model of a workload, and the beginning of its row."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from moex.bench.workload import generate
from moex.cache.limits import uneven
from moex.cache.lru import LRU
from moex.cache.variants.tiers import described, load_future
from moex.hardware.process_memory import trim
from moex.runner.assemble import Setup, offload
from moex.runner.routing_replay import read_routing
from moex.runs.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from moex.bench.workload import Workload
    from moex.runner.assemble import LoadedModel
    from moex.runner.offloaded import OffloadedModel
    from moex.trace.format import Trace
    from moex.types import Future, Plan


def prepare(
    loaded: LoadedModel, batches: list[torch.Tensor], workload: Workload, setup: Setup
) -> OffloadedModel:
    """Make the offloaded model; oracles get the future from a recording pass."""
    prefetcher = setup.prefetcher
    if prefetcher is not None and "recorded" in prefetcher.needs:
        raise ValueError(
            "prefetch=recorded replays what another run predicted: it works with mode=simulate "
            "trace=FILE; live, run that predictor itself"
        )
    if setup.needs_future and setup.skips:
        raise ValueError(
            "miss: what is skipped or deferred changes what later layers demand, so no recorded "
            "future holds; expected a policy and a prefetcher without oracles; try cache=lru "
            "prefetch=gate"
        )
    if workload.routing is not None and setup.routing is not None:
        raise ValueError(
            "workload.routing: overrules the routers, whose scores the routing policy needs; "
            "expected one of them; try workload.routing=null"
        )
    future: Future | None = None
    if setup.needs_future:
        plain = Setup(
            LRU(),
            setup.memory,
            seed=setup.seed,
            selector=setup.selector,
            routing=setup.routing,
        )
        recording = _record(
            _make(loaded, batches, workload, plain, None), workload, batches, setup.seed
        )
        trim()
        future = recording.future()
        if prefetcher is not None:
            prefetcher.set_future(recording)
    loads: Future | None = None
    if setup.decisions(loaded.store.name).needs_future_loads:
        loads = _record_loads(loaded, batches, workload, setup, future)
        trim()
    return _make(loaded, batches, workload, setup, future, loads=loads)


def _make(
    loaded: LoadedModel,
    batches: list[torch.Tensor],
    workload: Workload,
    setup: Setup,
    future: Future | None,
    on_plan: Callable[[Plan], None] | None = None,
    loads: Future | None = None,
) -> OffloadedModel:
    """Make an offloaded model for a workload, with its recorded routing if it has one."""
    widest, longest = (max(sizes) for sizes in zip(*(b.shape for b in batches), strict=True))
    lengths = longest, workload.new_tokens, widest
    offloaded = offload(loaded, setup, future, lengths, on_plan, loads)
    if workload.routing is not None:
        offloaded.replay(read_routing(workload.routing, loaded.geometry))
    return offloaded


def describe(offloaded: OffloadedModel, loaded: LoadedModel, setup: Setup) -> Report:
    """Begin a row with the names and sizes of model, store and setup."""
    cache, link, host, store = offloaded.cache, offloaded.link, offloaded.host, loaded.store
    report = Report(
        source="live",
        mode="live",
        policy=type(cache.prototype).__name__,
        prefetcher=type(offloaded.prefetcher).__name__,
        governor=offloaded.governor.state if offloaded.predicts else None,
        link=link.name,
        store=store.name,
        io=link.io or store.io,
        pinned=link.pinned,
        files_warm=store.files_warm,
        slots=cache.whole_slots,
        layer_slots=uneven(cache.layer_slots),
        pool=cache.pool,
        capacity_bytes=offloaded.slots.bytes + setup.predictor_bytes,
        predictor_bytes=setup.predictor_bytes,
        skeleton_bytes=loaded.skeleton_bytes,
        emulated=link.emulated or (host is not None and host.emulated),
        oracle=setup.needs_future,
        **described(cache),
        random_weights=loaded.random_weights,
        replayed_routing=offloaded.routing is not None,
        planned_device_bytes=offloaded.planned_bytes,
        residency_dependent=setup.residency_dependent,
    )
    if offloaded.tier is not None:
        report.fill(**offloaded.tier.rates)
    if setup.selector is not None:
        report.lossy.append("sparsity")
        report.fill(
            rows=setup.memory.rows,
            break_even=offloaded.break_even,
            rows_moved=cache.by_rows,
            prefill_masks=setup.selector.prefill,
        )
    loaded.describe(report)
    if setup.skips:
        report.lossy.append("miss")
    if setup.routing is not None:
        report.lossy.append("routing")
    return report


def _record_loads(
    loaded: LoadedModel,
    batches: list[torch.Tensor],
    workload: Workload,
    setup: Setup,
    future: Future | None,
) -> Future:
    """Run the workload once without a host tier, which changes no load of the device."""
    plans: list[Plan] = []
    plain = replace(setup, memory=replace(setup.memory, host=None))
    offloaded = _make(loaded, batches, workload, plain, future, plans.append)
    before = offloaded.empty if workload.cold else None
    given = workload.new_tokens, offloaded.meter, before, workload.sampler(setup.seed)
    with offloaded as model:
        generate(model, batches, *given)
    return load_future(plans)


def _record(
    offloaded: OffloadedModel, workload: Workload, batches: list[torch.Tensor], seed: int
) -> Trace:
    """Run the workload once to know its routing, which no cache changes."""
    choose = workload.sampler(seed)
    with offloaded as model:
        generate(model, batches, workload.new_tokens, offloaded.meter, choose=choose)
    return offloaded.recorder.trace({})
