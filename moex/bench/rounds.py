"""Runs a workload on a model and makes its result row."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from moex.bench.setup import describe, prepare
from moex.bench.timeline import EVENTS
from moex.bench.workload import generate
from moex.decisions.rerouter import Swaps
from moex.hardware.energy import joules, spent
from moex.hardware.process_memory import peak_host_bytes
from moex.runner.meter import Meter, begin_peak, peak_device_bytes, reference_s
from moex.runs.measured import by_request, measured
from moex.runs.report import Report
from moex.types import DECODE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch
    from transformers import PreTrainedModel

    from moex.bench.workload import Workload
    from moex.cache.stats import CacheStats
    from moex.runner.assemble import LoadedModel, Setup
    from moex.runner.offloaded import OffloadedModel
    from moex.runs.measured import Clocked
    from moex.trace.format import Trace
    from moex.trace.stream import TraceStream

    OnStop = Callable[[list["Round"]], None]


@dataclass
class Round:
    """One measured run over all prompts."""

    texts: list[list[int]]
    phases: dict[str, Clocked]
    series: list[dict[str, Any]]
    spans: list[tuple[float, float]] = field(default_factory=list)
    layer_stats: list[CacheStats] = field(default_factory=list)
    events: list[tuple[Any, ...]] = field(default_factory=list)
    trace: Trace | TraceStream | None = None
    swaps: Swaps = field(default_factory=Swaps)
    reference_s: tuple[float, ...] = ()
    """The fixed reference work of the meter, before and after."""
    joules: dict[str, float] = field(default_factory=dict)
    """Energy of the machine during the round, by row field; without a counter, none."""

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
    loaded: LoadedModel,
    batches: list[torch.Tensor],
    workload: Workload,
    setup: Setup,
    timeline: bool = False,
    on_stop: OnStop | None = None,
    folder: Path | None = None,
) -> Result:
    """Run the workload with offloaded experts.

    A policy or prefetcher that needs the future gets it from a recording pass made first: a model
    routes the same under every cache, also one whose neurons are selected. With `timeline`, rounds
    keep what happened when, so many events in all as `runner/timeline.py` allows; `on_stop` is
    called with the measured rounds, the last one cut short, when the run is interrupted or fails. A
    long run's visits are kept in temporary files in `folder`.
    """
    offloaded = prepare(loaded, batches, workload, setup)
    offloaded.trace_folder = folder
    if timeline:
        offloaded.log_events(EVENTS // workload.repeats)
    try:
        with offloaded as model:
            given = (workload, batches, offloaded.meter, offloaded, setup.seed)
            rounds = _rounds(model, *given, on_stop)
    finally:
        offloaded.close()
    return result_of(describe(offloaded, loaded, setup), rounds, setup.seed)


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
    return result_of(report, rounds, seed)


def _rounds(
    model: PreTrainedModel,
    workload: Workload,
    batches: list[torch.Tensor],
    meter: Meter,
    offloaded: OffloadedModel | None,
    seed: int,
    on_stop: OnStop | None,
) -> list[Round]:
    begin_peak()
    rounds: list[Round] = []
    choose = workload.sampler(seed)
    before: Callable[[], None] | None = None
    if offloaded is not None and workload.cold:
        before = offloaded.empty
    rounds_run = workload.warmup + workload.repeats
    with tqdm(total=rounds_run, desc="rounds", disable=None, leave=False) as bar:
        reference = reference_s()
        for number in range(-workload.warmup, workload.repeats):
            if offloaded is not None:
                offloaded.restart()
            meter.reset()
            energy = joules()
            try:
                texts = generate(model, batches, workload.new_tokens, meter, before, choose)
            except BaseException:
                if on_stop and number >= 0:
                    on_stop([*rounds, Round([], meter.phases, meter.series)])
                raise
            done = Round(texts, meter.phases, meter.series, meter.spans)
            done.joules = spent(energy, joules())
            if offloaded is not None:
                offloaded.finish()
                done.layer_stats, done.events = offloaded.layer_stats, list(offloaded.events or ())
                done.swaps = offloaded.journal.swaps
                done.trace = offloaded.recorder.recording(offloaded.provenance)
            done.reference_s = (reference, reference := reference_s())
            if number >= 0:
                rounds.append(done)
            bar.update()
    return rounds


def result_of(report: Report, rounds: list[Round], seed: int) -> Result:
    """Fill in what was measured: the round of median speed, and how rounds differ."""
    speeds = [done.tokens_per_second for done in rounds]
    middle = min(rounds, key=lambda done: abs(done.tokens_per_second - median(speeds)))
    seen = [seconds for done in rounds for seconds in done.reference_s]
    quarters = quantiles(speeds, n=4, method="inclusive") if len(speeds) > 1 else None
    report.fill(
        *measured(
            middle.layer_stats,
            middle.phases,
            bool(report.rows_moved),
            report.slots,
            middle.phases[DECODE].tokens,
        ),
        **middle.swaps.rates,
        **by_request(middle.series),
        **middle.joules,
        seed=seed,
        repeats=len(rounds),
        drift=max(seen) / min(seen) - 1,
        tokens_per_second_iqr=quarters and quarters[2] - quarters[0],
        peak_host_bytes=peak_host_bytes(),
        peak_device_bytes=peak_device_bytes(),
    )
    return Result(report, middle, rounds)
