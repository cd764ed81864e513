"""Runs a workload on a model and makes its result row."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from moex.cache.capacity import Memory
from moex.cache.lru import LRU
from moex.report import Clocked, Report
from moex.runner.assemble import offload
from moex.runner.meter import Meter, peak_host_bytes, reference_s
from moex.runner.routing import read_routing
from moex.runner.timeline import EVENTS
from moex.runner.workload import generate
from moex.types import DECODE

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

    from moex.cache.base import CachePolicy
    from moex.cache.ledger import Ledger
    from moex.miss.base import MissHandler
    from moex.prefetch.base import Prefetcher
    from moex.runner.assemble import Parts
    from moex.runner.model import OffloadedModel
    from moex.runner.workload import Workload
    from moex.sim.hardware import HardwareProfile
    from moex.sparsity.base import NeuronSelector
    from moex.trace.format import Trace
    from moex.types import Future

    OnStop = Callable[[list["Round"]], None]


@dataclass
class Round:
    """One measured run over all prompts."""

    texts: list[list[int]]
    phases: dict[str, Clocked]
    series: list[dict[str, Any]]
    spans: list[tuple[float, float]] = field(default_factory=list)
    ledgers: list[Ledger] = field(default_factory=list)
    events: list[tuple[Any, ...]] = field(default_factory=list)
    trace: Trace | None = None
    reference_s: tuple[float, ...] = ()
    """The fixed reference work of the meter, before and after."""

    @property
    def tokens_per_second(self) -> float:
        """Decoded tokens a second."""
        decode = self.phases[DECODE]
        return decode.tokens / decode.seconds


@dataclass
class Result:
    """A row, and what it was made from: the round of median speed."""

    report: Report
    round: Round
    rounds: list[Round]


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


def run_offloaded(
    parts: Parts,
    batches: list[torch.Tensor],
    workload: Workload,
    setup: Setup,
    timeline: bool = False,
    on_stop: OnStop | None = None,
) -> Result:
    """Run the workload with offloaded experts.

    A policy or prefetcher that needs the future gets it from a recording pass made first: a model
    routes the same under every cache, also one whose neurons are selected. With `timeline`, rounds
    keep what happened when, so many events in all as `runner/timeline.py` allows; `on_stop` is
    called with the measured rounds, the last one cut short, when the run is interrupted or fails.
    """
    offloaded = prepare(parts, batches, workload, setup)
    if timeline:
        offloaded.log_events(EVENTS // workload.repeats)
    try:
        with offloaded as model:
            given = (workload, batches, offloaded.meter, offloaded, setup.seed)
            rounds = _rounds(model, *given, on_stop)
    finally:
        offloaded.close()
    return _result(describe(offloaded, parts, setup), rounds, setup.seed)


def prepare(
    parts: Parts, batches: list[torch.Tensor], workload: Workload, setup: Setup
) -> OffloadedModel:
    """Make the offloaded model; parts that know the future get it from a recording pass."""
    prefetcher, routing = setup.prefetcher, workload.routing
    if prefetcher is not None and "recorded" in prefetcher.needs:
        raise ValueError(
            "prefetch=recorded replays what another run predicted: it works with mode=simulate "
            "trace=FILE; live, run that predictor itself"
        )
    shapes = [batch.shape for batch in batches]
    widest, longest = (max(sizes) for sizes in zip(*shapes, strict=True))
    lengths = (longest, workload.new_tokens, widest)
    if setup.foresight and setup.skips:
        raise ValueError(
            "miss: skipping changes what later layers demand, so no recorded future holds; "
            "expected a policy and a prefetcher without oracles; try cache=lru prefetch=gate"
        )
    future: Future | None = None
    if setup.foresight:
        plain = offload(
            *(parts, LRU(), setup.memory),
            seed=setup.seed,
            selector=setup.selector,
            lengths=lengths,
        )
        if routing is not None:
            plain.replay(read_routing(routing, parts.geometry))
        recording = _record(plain, workload, batches, setup.seed)
        future = recording.future()
        if prefetcher is not None:
            prefetcher.foresee(recording)
    offloaded = offload(
        *(parts, setup.policy, setup.memory, prefetcher, setup.hardware, setup.seed, future),
        miss=setup.miss,
        selector=setup.selector,
        lengths=lengths,
    )
    if routing is not None:
        offloaded.replay(read_routing(routing, parts.geometry))
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
    report.store, report.io, report.files_warm = store.name, store.io, store.files_warm
    return report


def run_baseline(
    model: PreTrainedModel,
    name: str,
    batches: list[torch.Tensor],
    workload: Workload,
    seed: int = 0,
    on_stop: OnStop | None = None,
) -> Result:
    """Run the workload on an ordinary transformers model, for the same row."""
    rounds = _rounds(model, workload, batches, Meter(), None, seed, on_stop)
    report = Report(source="live", mode="live", runner=name)
    return _result(report, rounds, seed)


def _record(
    offloaded: OffloadedModel, workload: Workload, batches: list[torch.Tensor], seed: int
) -> Trace:
    """Run the workload once to know its routing, which no cache changes."""
    choose = workload.sampler(seed)
    with offloaded as model:
        generate(model, batches, workload.new_tokens, offloaded.meter, choose=choose)
    return offloaded.recorder.trace({})


def _rounds(
    model: PreTrainedModel,
    workload: Workload,
    batches: list[torch.Tensor],
    meter: Meter,
    offloaded: OffloadedModel | None,
    seed: int,
    on_stop: OnStop | None,
) -> list[Round]:
    rounds: list[Round] = []
    choose = workload.sampler(seed)
    before: Callable[[], None] | None = None
    if offloaded is not None and workload.cold:
        before = offloaded.empty
    with tqdm(total=workload.warmup + workload.repeats, desc="rounds", disable=None) as bar:
        reference = reference_s()
        for number in range(-workload.warmup, workload.repeats):
            if offloaded is not None:
                offloaded.restart()
            meter.reset()
            try:
                texts = generate(model, batches, workload.new_tokens, meter, before, choose)
            except BaseException:
                if on_stop and number >= 0:
                    on_stop([*rounds, Round([], meter.phases, meter.series)])
                raise
            done = Round(texts, meter.phases, meter.series, meter.spans)
            if offloaded is not None:
                offloaded.finish()
                done.ledgers, done.events = offloaded.ledgers, list(offloaded.events or ())
                done.trace = offloaded.recorder.trace({})
            done.reference_s = (reference, reference := reference_s())
            if number >= 0:
                rounds.append(done)
            bar.update()
    return rounds


def _result(report: Report, rounds: list[Round], seed: int) -> Result:
    speeds = [done.tokens_per_second for done in rounds]
    middle = min(rounds, key=lambda done: abs(done.tokens_per_second - median(speeds)))
    if middle.ledgers:
        report.book(middle.ledgers, middle.phases)
    else:
        report.book_times(middle.phases)
    report.repeats, report.seed = len(rounds), seed
    seen = [seconds for done in rounds for seconds in done.reference_s]
    report.drift = max(seen) / min(seen) - 1
    if len(speeds) > 1:
        low, _, high = quantiles(speeds, n=4, method="inclusive")
        report.tokens_per_second_iqr = high - low
    report.peak_host_bytes = peak_host_bytes()
    if torch.cuda.is_available():
        report.peak_device_bytes = torch.cuda.max_memory_allocated()
    return Result(report, middle, rounds)
