"""Fits a cost table to an offloaded run that times its visits, predictions and hand-overs."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from moex.bench.workload import generate
from moex.cache.lru import LRU
from moex.hardware.costs import fit
from moex.prefetch.base import Prefetcher
from moex.prefetch.gate import Gate
from moex.runner.assemble import Setup, offload
from moex.types import DECODE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

    from moex.cache.memory import Memory
    from moex.hardware.costs import Costs
    from moex.hardware.profile import HardwareProfile
    from moex.link.base import Link, LinkStats
    from moex.prefetch.base import Observation
    from moex.runner.assemble import LoadedModel
    from moex.types import Geometry, Plan, Prediction


class TimedPrefetcher(Prefetcher):
    """Asks another prefetcher, and keeps how long every answer took [visits]."""

    def __init__(self, inner: Prefetcher) -> None:
        self.inner = inner
        self.needs = inner.needs  # type: ignore[misc]  # as the inner prefetcher's class has it
        self.seconds: list[float] = []

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Forget everything."""
        self.inner.reset(geometry, seed)
        self.seconds.clear()

    def predict(self, observation: Observation) -> Sequence[Prediction]:
        """Return the inner prefetcher's predictions."""
        started = perf_counter()
        self.inner.observe(observation)
        predictions = self.inner.predict(observation)
        self.seconds.append(perf_counter() - started)
        return predictions


def offloaded_costs(
    loaded: LoadedModel,
    memory: Memory,
    link: HardwareProfile | None,
    prompts: Sequence[torch.Tensor],
    tokens: int,
) -> tuple[Costs, float, LinkStats]:
    """Decode offloaded with LRU and gate lookahead: costs, seconds of a prediction, what crossed.

    Predictions, and what the computing thread spends in the link's calls without waiting, are timed
    by themselves, the rest is fitted. The table is scaled so that it adds up to the run's own
    seconds: medians leave interruptions out, but speeds have them in.
    """
    plans: list[Plan] = []
    timed = TimedPrefetcher(Gate())
    run = offload(loaded, Setup(LRU(), memory, timed, link), on_plan=plans.append)
    run.meter.times_visits = True
    spent = _timed_link(run.link)
    with run as model:
        generate(model, prompts, tokens, run.meter)
        run.finish()
        crossed = run.link.stats()
    trace, layers = run.recorder.trace({}), loaded.geometry.layers
    decode, first = ~trace.prefill, trace.layer == 0
    loads, submits, moved = Counter[int](), Counter[int](), Counter[int]()
    for plan in plans:
        loads[plan.clock] += len(plan.prefetched) + sum(not load.speculative for load in plan.loads)
        submits[plan.clock] += bool(plan.transfers)
        moved[plan.clock] += len(plan.transfers)
    clocks = range(len(trace))
    columns = {
        "experts": np.diff(trace.offsets),
        "tokens": np.ones(len(trace)),
        "loads": np.asarray([loads[clock] for clock in clocks]),
    }
    handing = {
        "experts": np.zeros(len(trace)),
        "tokens": np.ones(len(trace)),
        "loads": np.asarray([moved[clock] for clock in clocks]),
        "submits": np.asarray([submits[clock] for clock in clocks]),
    }
    predicting = np.asarray(timed.seconds)
    handed = np.asarray([spent[clock] for clock in clocks])
    seconds = np.asarray(run.meter.visits) - predicting - handed
    # A pass's first visit includes its start, so it is left out of the fit.
    fitted = decode & ~first if layers > 1 else decode
    costs = _fitted(seconds, fitted, columns)
    link_costs = _fitted(handed, fitted, handing)
    whole = [x["seconds"] - x["stall_s"] for x in run.meter.series if x["phase"] == DECODE]
    inside = costs.seconds(**columns) + predicting + handed
    pass_s = max(0.0, (sum(whole) - float(inside[decode].sum())) / len(whole))
    costs = replace(
        costs,
        visit_s=costs.visit_s + link_costs.visit_s,
        pass_s=pass_s,
        submit_s=link_costs.submit_s,
        handover_s=link_costs.load_s,
    )
    return costs, float(predicting[decode].mean()), crossed


def _fitted(
    seconds: NDArray[np.float64],
    visits: NDArray[np.bool_],
    columns: dict[str, NDArray[Any]],
) -> Costs:
    """The table of these visits, adding up to what they took."""
    costs = fit(seconds=seconds[visits], **{name: each[visits] for name, each in columns.items()})
    modelled = costs.seconds(**columns)[visits].sum()
    return costs.times(float(seconds[visits].sum() / modelled)) if modelled else costs


def _timed_link(link: Link) -> dict[int, float]:
    """Let the link keep what the computing thread spends in it at every visit, without waiting."""
    seconds: defaultdict[int, float] = defaultdict(float)
    submit, wait, used, clock = link.submit, link.wait, link.used, 0

    def timed_submit(plan: Plan) -> None:
        nonlocal clock
        clock, started = plan.clock, perf_counter()
        submit(plan)
        seconds[clock] += perf_counter() - started

    def timed_wait(slot: int) -> float:
        started = perf_counter()
        stall = wait(slot)
        seconds[clock] += perf_counter() - started - stall
        return stall

    def timed_used(slot: int) -> None:
        started = perf_counter()
        used(slot)
        seconds[clock] += perf_counter() - started

    link.submit, link.wait, link.used = timed_submit, timed_wait, timed_used  # type: ignore[method-assign]
    return seconds
