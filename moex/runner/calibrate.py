"""Measures this machine running this model: the costs that a simulation of it needs.

Offloaded runs compute slower than resident ones: a link's thread is woken and takes turns with the
computing one, and weights that have just arrived are cold. So costs are fitted to an offloaded run.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
import torch

from moex.cache.capacity import Memory
from moex.cache.lru import LRU
from moex.prefetch.base import Prefetcher
from moex.prefetch.gate import Gate
from moex.runner import density, hf
from moex.runner.assemble import Setup, offload
from moex.runner.meter import synchronize
from moex.runner.workload import generate
from moex.sim.costs import fit
from moex.sim.hardware import HardwareProfile
from moex.store.layout import Planes
from moex.store.slots import Slots
from moex.types import DECODE, Expert

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from moex.link.base import Link
    from moex.prefetch.base import Observation
    from moex.runner.assemble import Parts
    from moex.sim.costs import Costs
    from moex.types import Geometry, Plan, Prediction

ROUNDS = 7


class TimedPrefetcher(Prefetcher):
    """Asks another prefetcher, and keeps how long every answer took [visits]."""

    def __init__(self, inner: Prefetcher) -> None:
        self.inner = inner
        self.needs = inner.needs  # type: ignore[misc]  # as the inner one's class says
        self.seconds: list[float] = []

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Forget everything."""
        self.inner.reset(geometry, seed)
        self.seconds.clear()

    def predict(self, observation: Observation) -> Sequence[Prediction]:
        """Return what the other one says."""
        started = perf_counter()
        self.inner.observe(observation)
        predictions = self.inner.predict(observation)
        self.seconds.append(perf_counter() - started)
        return predictions


def calibrate(
    parts: Parts, tokens: int = 64, slots: float = 0.5, folder: Path | None = None
) -> HardwareProfile:
    """Fit the costs of computing to one offloaded run; time one expert, the head and the copy link.

    At last neurons are moved from memory and from files in `folder` (`break_evens`).

    The run decodes with LRU, `slots` of the experts and gate lookahead, behind an emulated link on
    which a load takes as long as a layer with all experts resident. Nothing else should run
    meanwhile.
    """
    geometry = parts.geometry
    prompts = [
        torch.arange(start, start + 32, device=parts.device)[None] % parts.model.config.vocab_size
        for start in (16, 113, 210, 307)
    ]
    copy_s, layer_s = _copy_seconds(parts), _layer_seconds(parts, prompts[0])
    plain = HardwareProfile(
        name="measured",
        link_bytes_per_s=geometry.expert_bytes / copy_s,
        source=f"{parts.folder.name} on this machine, {torch.get_num_threads()} threads",
    )
    link = replace(plain, link_bytes_per_s=geometry.expert_bytes / layer_s, chunk_bytes=1 << 16)
    expert_s = _expert_seconds(parts)
    costs, predict_s = offloaded_costs(parts, Memory(slots), link, prompts, tokens)
    visit_s = costs.visit_s + geometry.top_k * (costs.expert_s - expert_s)
    profile = costs.profile(plain)
    profile = replace(profile, visit_s=max(0.0, visit_s), expert_s=expert_s, predict_s=predict_s)
    return replace(profile, break_even=break_evens(parts, folder))


def break_evens(parts: Parts, folder: Path | None) -> dict[str, float] | None:
    """From which share of its rows on an expert of this model is moved whole, by store.

    None for experts that cannot be kept neuron by neuron, and for quantized ones. Files are written
    to `folder`, which should be on the disk that experts are packed to.
    """
    if parts.packing is not None:
        return None
    try:
        return {
            pair.name: density.break_even(density.measure(pair), pair.width)
            for pair in density.pairs(parts.layers[0].tensors, folder, parts.device)
        }
    except ValueError:
        return None


def offloaded_costs(
    parts: Parts,
    memory: Memory,
    link: HardwareProfile,
    prompts: Sequence[torch.Tensor],
    tokens: int,
) -> tuple[Costs, float]:
    """Decode offloaded with LRU and gate lookahead: the fitted costs, and seconds of a prediction.

    Predictions and submissions are timed by themselves, the rest is fitted.
    The table is scaled so that it adds up to the run's own seconds: medians leave interruptions
    out, but speeds have them in.
    """
    plans: list[Plan] = []
    timed = TimedPrefetcher(Gate())
    run = offload(parts, Setup(LRU(), memory, timed, link), on_plan=plans.append)
    run.meter.times_visits = True
    submitting = _timed_submits(run.link)
    with run as model:
        generate(model, prompts, tokens, run.meter)
        run.finish()
    trace, layers = run.recorder.trace({}), parts.geometry.layers
    decode, first = ~trace.prefill, trace.layer == 0
    loads, submits = Counter[int](), Counter[int]()
    for plan in plans:
        loads[plan.clock] += len(plan.guessed) + sum(not load.speculative for load in plan.loads)
        submits[plan.clock] += bool(plan.loads)
    clocks = range(len(trace))
    columns = {
        "experts": np.diff(trace.offsets),
        "tokens": np.ones(len(trace)),
        "loads": np.asarray([loads[clock] for clock in clocks]),
    }
    predicting = np.asarray(timed.seconds)
    submitted = np.asarray([submitting[clock] for clock in clocks])
    seconds = np.asarray(run.meter.visits) - predicting - submitted
    # A pass's beginning lies in its first visit, so that is not fitted to.
    fitted = decode & ~first if layers > 1 else decode
    costs = fit(seconds=seconds[fitted], **{k: v[fitted] for k, v in columns.items()})
    told = costs.seconds(**columns)
    costs = costs.times(float(seconds[fitted].sum() / told[fitted].sum()))
    whole = [x["seconds"] - x["stall_s"] for x in run.meter.series if x["phase"] == DECODE]
    inside = costs.seconds(**columns) + predicting + submitted
    pass_s = max(0.0, (sum(whole) - float(inside[decode].sum())) / len(whole))
    count = sum(submits[clock] for clock in np.flatnonzero(decode).tolist())
    submit_s = float(submitted[decode].sum()) / max(1, count)
    return replace(costs, pass_s=pass_s, submit_s=submit_s), float(predicting[decode].mean())


def _timed_submits(link: Link) -> Counter[int]:
    """Let the link keep how long it took to be handed the loads of every visit, in seconds."""
    seconds: Counter[int] = Counter()
    submit = link.submit

    def timed(plan: Plan) -> None:
        started = perf_counter()
        submit(plan)
        if plan.loads:
            seconds[plan.clock] += perf_counter() - started  # type: ignore[assignment]

    link.submit = timed  # type: ignore[method-assign]
    return seconds


def _layer_seconds(parts: Parts, prompt: torch.Tensor) -> float:
    """A layer visit of decoding with all experts resident, median over passes."""
    run = offload(parts, Setup(LRU(), Memory(parts.geometry.experts)))
    with run as model:
        generate(model, [prompt], 48, run.meter)
    # Loads of the cold start are no computing.
    lines = [x["seconds"] - x["stall_s"] for x in run.meter.series if x["phase"] == DECODE]
    return median(lines) / parts.geometry.layers


def _median_of(call: Callable[[int], object], count: int) -> float:
    """Median over rounds of the mean seconds of `count` calls."""
    rounds = []
    with torch.inference_mode():
        for _ in range(ROUNDS):
            synchronize()
            started = perf_counter()
            for number in range(count):
                call(number)
            synchronize()
            rounds.append((perf_counter() - started) / count)
    return median(rounds)


def _expert_seconds(parts: Parts) -> float:
    """One expert for one token, of as many as a layer has."""
    if not isinstance(parts.layout, Planes):
        raise ValueError("mode=calibrate: measures whole experts; try sparsity=none")
    places = Slots(parts.layout, parts.geometry.experts, parts.device)
    for number, record in enumerate(places.records):
        parts.store.read(Expert(0, number), record)
    slots = places.tensors
    experts = parts.layers[0].experts
    kind = parts.dtype
    token = torch.randn(1, parts.geometry.hidden, device=parts.device).to(kind)
    return _median_of(
        lambda number: hf.expert_output(experts, token, slots[number % len(slots)]), 48
    )


def _copy_seconds(parts: Parts) -> float:
    out = torch.empty(parts.layout.bytes, dtype=torch.uint8, device=parts.device)
    geometry = parts.geometry
    return _median_of(
        lambda number: parts.store.read(
            Expert(number % geometry.layers, number % geometry.experts), out
        ),
        48,
    )
