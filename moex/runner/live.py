"""Runs a workload on a model and makes its result row."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from moex.cache.lru import LRU
from moex.report import Clocked, Report
from moex.runner.assemble import offload
from moex.runner.meter import Meter, peak_host_bytes
from moex.runner.workload import generate
from moex.types import DECODE

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

    from moex.cache.base import CachePolicy
    from moex.cache.capacity import Memory
    from moex.cache.ledger import Ledger
    from moex.prefetch.base import Prefetcher
    from moex.runner.assemble import Parts
    from moex.runner.model import OffloadedModel
    from moex.runner.workload import Workload
    from moex.sim.hardware import HardwareProfile
    from moex.trace.format import Trace
    from moex.types import Future


@dataclass
class Round:
    """One measured run over all prompts."""

    texts: list[list[int]]
    phases: dict[str, Clocked]
    series: list[dict[str, Any]]
    ledger: Ledger | None = None
    trace: Trace | None = None

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


def run_offloaded(
    parts: Parts,
    tokenizer: Any,
    workload: Workload,
    policy: CachePolicy,
    memory: Memory | None = None,
    prefetcher: Prefetcher | None = None,
    hardware: HardwareProfile | None = None,
    seed: int = 0,
) -> Result:
    """Run the workload with offloaded experts.

    A policy or prefetcher that needs the future gets it from a recording pass made first: an exact
    model routes the same under every cache.
    """
    batches = workload.batches(tokenizer, parts.device)
    future: Future | None = None
    if prefetcher is not None and "recorded" in prefetcher.needs:
        raise ValueError(
            "prefetch=recorded replays what another run predicted: it works with mode=simulate "
            "trace=FILE; live, run that predictor itself"
        )
    foresight = policy.needs | (prefetcher.needs if prefetcher is not None else set())
    if "future" in foresight:
        recording = _record(offload(parts, LRU(), memory, seed=seed), workload, batches)
        future = recording.future()
        if prefetcher is not None:
            prefetcher.foresee(recording)
    offloaded = offload(parts, policy, memory, prefetcher, hardware, seed, future)
    try:
        with offloaded as model:
            rounds = _rounds(model, workload, batches, offloaded.meter, offloaded)
    finally:
        offloaded.close()
    report = Report(source="live", mode="live", oracle=future is not None)
    cache, link, store = offloaded.cache, offloaded.link, parts.store
    report.policy, report.prefetcher = type(policy).__name__, type(offloaded.prefetcher).__name__
    report.slots, report.pool = cache.slots, cache.pool
    report.capacity_bytes = offloaded.slots.bytes
    report.skeleton_bytes = parts.skeleton_bytes
    parts.describe(report)
    report.link, report.emulated = link.name, link.emulated
    report.store, report.io, report.files_warm = store.name, store.io, store.files_warm
    return _result(report, rounds, seed)


def run_baseline(
    model: PreTrainedModel, name: str, tokenizer: Any, workload: Workload, seed: int = 0
) -> Result:
    """Run the workload on an ordinary transformers model, for the same row."""
    batches = workload.batches(tokenizer, str(model.device))
    rounds = _rounds(model, workload, batches, Meter(), None)
    report = Report(source="live", mode="live", runner=name)
    return _result(report, rounds, seed)


def _record(offloaded: OffloadedModel, workload: Workload, batches: list[torch.Tensor]) -> Trace:
    """Run the workload once to know its routing, which no cache changes."""
    with offloaded as model:
        generate(model, batches, workload.new_tokens, offloaded.meter)
    offloaded.close()
    return offloaded.recorder.trace({})


def _rounds(
    model: PreTrainedModel,
    workload: Workload,
    batches: list[torch.Tensor],
    meter: Meter,
    offloaded: OffloadedModel | None,
) -> list[Round]:
    rounds = []
    before: Callable[[], None] | None = None
    if offloaded is not None and workload.cold:
        before = offloaded.empty
    with tqdm(total=workload.warmup + workload.repeats, desc="rounds", disable=None) as bar:
        for number in range(-workload.warmup, workload.repeats):
            if offloaded is not None:
                offloaded.restart()
            meter.reset()
            texts = generate(model, batches, workload.new_tokens, meter, before)
            done = Round(texts, meter.phases, meter.series)
            if offloaded is not None:
                offloaded.finish()
                done.ledger = offloaded.ledger
                done.trace = offloaded.recorder.trace({})
            if number >= 0:
                rounds.append(done)
            bar.update()
    return rounds


def _result(report: Report, rounds: list[Round], seed: int) -> Result:
    speeds = [done.tokens_per_second for done in rounds]
    middle = min(rounds, key=lambda done: abs(done.tokens_per_second - median(speeds)))
    if middle.ledger is not None:
        report.book(middle.ledger, middle.phases)
    else:
        report.book_times(middle.phases)
    report.repeats, report.seed = len(rounds), seed
    if len(speeds) > 1:
        low, _, high = quantiles(speeds, n=4, method="inclusive")
        report.tokens_per_second_iqr = high - low
    report.peak_host_bytes = peak_host_bytes()
    if torch.cuda.is_available():
        report.peak_device_bytes = torch.cuda.max_memory_allocated()
    return Result(report, middle, rounds)
