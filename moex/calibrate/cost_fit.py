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
from moex.link.base import Link
from moex.prefetch.base import Prefetcher
from moex.prefetch.gate import Gate
from moex.runner.assemble import Setup, offload
from moex.types import DECODE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch
    from numpy.typing import NDArray

    from moex.cache.memory import Memory
    from moex.hardware.costs import Costs
    from moex.hardware.profile import HardwareProfile
    from moex.link.base import LinkStats
    from moex.prefetch.base import Observation
    from moex.runner.assemble import LoadedModel
    from moex.runs.measured import Clocked
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


class TimedLink(Link):
    """Passes every call on to another link, and keeps what the computing thread spends in it.

    `seconds` are by the clock of the visit, without those of waiting.
    """

    def __init__(self, inner: Link) -> None:
        self.inner, self.seconds = inner, defaultdict[int, float](float)
        self.name, self.emulated, self.io = inner.name, inner.emulated, inner.io
        self.in_parts, self._clock = inner.in_parts, 0
        self.overlaps = inner.overlaps

    @property
    def pinned(self) -> bool | None:
        """As of the other link."""
        return self.inner.pinned

    def _timed(self, call: Callable[..., Any], *given: int | Plan) -> bool:
        started, stall = perf_counter(), self.inner.stall_s
        late = call(*given)
        waited = self.inner.stall_s - stall
        self.seconds[self._clock] += perf_counter() - started - waited
        return bool(late)

    def submit(self, plan: Plan) -> None:
        """Submit a plan; the calls after it belong to its visit."""
        self._clock = plan.clock
        self._timed(self.inner.submit, plan)

    def wait(self, slot: int) -> bool:
        """Wait for a load."""
        return self._timed(self.inner.wait, slot)

    def wait_part(self, slot: int, size: int) -> bool:
        """Wait for the first bytes of a load."""
        return self._timed(self.inner.wait_part, slot, size)

    def used(self, slot: int) -> None:
        """Note that a computation was launched."""
        self._timed(self.inner.used, slot)

    def restart(self) -> None:
        """Reset the other link."""
        self.inner.restart()

    def stats(self) -> LinkStats:
        """As of the other link."""
        return self.inner.stats()

    def close(self) -> None:
        """Close the other link."""
        self.inner.close()


def offloaded_costs(
    loaded: LoadedModel,
    memory: Memory,
    link: HardwareProfile | None,
    prompts: Sequence[torch.Tensor],
    tokens: int,
) -> tuple[Costs, float, Clocked]:
    """Decode offloaded with LRU and gate lookahead: costs, seconds of a prediction, the decoding.

    Predictions, and what the computing thread spends in the link's calls without waiting, are timed
    by themselves, the rest is fitted. The table is scaled so that it adds up to the run's own
    seconds: medians leave interruptions out, but speeds have them in.
    """
    plans: list[Plan] = []
    timed = TimedPrefetcher(Gate())
    run = offload(loaded, Setup(LRU(), memory, timed, link), on_plan=plans.append)
    run.meter.times_visits = True
    spent = run.link = TimedLink(run.link)
    with run as model:
        generate(model, prompts, tokens, run.meter)
        run.finish()
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
    handed = np.asarray([spent.seconds[clock] for clock in clocks])
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
    # Not the prompts': they read most records for the first time, and compare their checksums.
    return costs, float(predicting[decode].mean()), run.meter.phases[DECODE]


def _fitted(
    seconds: NDArray[np.float64],
    visits: NDArray[np.bool_],
    columns: dict[str, NDArray[Any]],
) -> Costs:
    """The table of these visits, adding up to what they took."""
    costs = fit(seconds=seconds[visits], **{name: each[visits] for name, each in columns.items()})
    modelled = costs.seconds(**columns)[visits].sum()
    return costs.times(float(seconds[visits].sum() / modelled)) if modelled else costs
