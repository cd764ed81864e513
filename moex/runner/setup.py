"""What can be chosen about offloading, and the model that comes of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moex.cache.capacity import Memory
from moex.cache.lru import LRU
from moex.report import Report
from moex.runner.assemble import offload
from moex.runner.routing import read_routing
from moex.runner.workload import generate

if TYPE_CHECKING:
    import torch

    from moex.cache.base import CachePolicy
    from moex.miss.base import MissHandler
    from moex.prefetch.base import Prefetcher
    from moex.runner.assemble import Parts
    from moex.runner.model import OffloadedModel
    from moex.runner.workload import Workload
    from moex.sim.hardware import HardwareProfile
    from moex.sparsity.base import NeuronSelector
    from moex.trace.format import Trace
    from moex.types import Future


@dataclass(frozen=True)
class Setup:
    """How experts are offloaded: everything that can be chosen about it.

    Args:
        policy: who leaves.
        memory: how much of the model is on the device.
        prefetcher: who comes; default nobody.
        hardware: a timed profile emulates its link.
        seed: for everything that draws.
        miss: what is done about absent experts; default: they are fetched.
        selector: which neurons count for a token; default all.
    """

    policy: CachePolicy
    memory: Memory = field(default_factory=Memory)
    prefetcher: Prefetcher | None = None
    hardware: HardwareProfile | None = None
    seed: int = 0
    miss: MissHandler | None = None
    selector: NeuronSelector | None = None

    @property
    def foresight(self) -> bool:
        """Whether the policy or the prefetcher must know the future."""
        needs = self.policy.needs | (self.prefetcher.needs if self.prefetcher else set())
        return "future" in needs

    @property
    def skips(self) -> bool:
        """Whether misses may change logits."""
        return self.miss is not None and self.miss.lossy


def prepare(
    parts: Parts, batches: list[torch.Tensor], workload: Workload, setup: Setup
) -> OffloadedModel:
    """Make the offloaded model; parts that know the future get it from a recording pass."""
    prefetcher = setup.prefetcher
    if prefetcher is not None and "recorded" in prefetcher.needs:
        raise ValueError(
            "prefetch=recorded replays what another run predicted: it works with mode=simulate "
            "trace=FILE; live, run that predictor itself"
        )
    if setup.foresight and setup.skips:
        raise ValueError(
            "miss: skipping changes what later layers demand, so no recorded future holds; "
            "expected a policy and a prefetcher without oracles; try cache=lru prefetch=gate"
        )
    if not setup.foresight:
        return _make(parts, batches, workload, setup)
    plain = Setup(LRU(), setup.memory, seed=setup.seed, selector=setup.selector)
    recording = _record(_make(parts, batches, workload, plain), workload, batches, setup.seed)
    if prefetcher is not None:
        prefetcher.foresee(recording)
    return _make(parts, batches, workload, setup, recording.future())


def _make(
    parts: Parts,
    batches: list[torch.Tensor],
    workload: Workload,
    setup: Setup,
    future: Future | None = None,
) -> OffloadedModel:
    """Make an offloaded model for a workload, with its recorded routing if it has one."""
    widest, longest = (max(sizes) for sizes in zip(*(b.shape for b in batches), strict=True))
    offloaded = offload(
        *(parts, setup.policy, setup.memory, setup.prefetcher, setup.hardware, setup.seed, future),
        miss=setup.miss,
        selector=setup.selector,
        lengths=(longest, workload.new_tokens, widest),
    )
    if workload.routing is not None:
        offloaded.replay(read_routing(workload.routing, parts.geometry))
    return offloaded


def describe(offloaded: OffloadedModel, parts: Parts, setup: Setup) -> Report:
    """Begin a row with what the model's parts say of themselves."""
    cache, link, store = offloaded.cache, offloaded.link, parts.store
    report = Report(source="live", mode="live", oracle=setup.foresight)
    report.policy = type(cache.prototype).__name__
    report.prefetcher = type(offloaded.prefetcher).__name__
    report.slots, report.pool = cache.slots, cache.pool
    predictors = (setup.selector, offloaded.prefetcher)
    report.predictor_bytes = sum(each.device_bytes for each in predictors if each)
    report.capacity_bytes = offloaded.slots.bytes + report.predictor_bytes
    if setup.selector is not None and offloaded.neurons is not None:
        report.lossy.append("sparsity")
        report.rows, report.prefill_masks = offloaded.neurons.cache.share, setup.selector.prefill
        report.break_even = offloaded.neurons.cache.break_even
    report.skeleton_bytes = parts.skeleton_bytes
    report.random_weights = parts.random_weights
    report.replayed_routing = offloaded.routing is not None
    report.planned_device_bytes = offloaded.planned_bytes
    host = offloaded.host
    report.link, report.pinned = link.name, link.pinned
    parts.describe(report)
    report.emulated = link.emulated or (host is not None and host.emulated)
    if setup.skips:
        report.lossy.append("miss")
    report.store, report.io, report.files_warm = store.name, link.io or store.io, store.files_warm
    return report


def _record(
    offloaded: OffloadedModel, workload: Workload, batches: list[torch.Tensor], seed: int
) -> Trace:
    """Run the workload once to know its routing, which no cache changes."""
    choose = workload.sampler(seed)
    with offloaded as model:
        generate(model, batches, workload.new_tokens, offloaded.meter, choose=choose)
    return offloaded.recorder.trace({})
