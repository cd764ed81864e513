"""Costs of computing, fitted to the timings of one live run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from moex.hardware.profile import HardwareProfile


@dataclass(frozen=True)
class Costs:
    """Seconds of a visit without waiting: the sum of these costs, each times its count.

    visit_s: a layer visit without its experts (attention, norms, router, bookkeeping).
    expert_s: every expert computed in the visit.
    token_s: every token after the first (prefill; the simulator does not count it).
    pass_s: a forward pass without its layers; not part of visits, so not fitted: 0 until it is set.
    submit_s: every plan that hands loads to the link.
    handover_s: every load of such a plan.
    load_s: every expert computed for the first time after its load, demanded or prefetched.
    error: mean absolute error of the fit over the visits, as a share of their mean time.
    separated: False if every visit computed equally many experts, so that `visit_s` includes them.
    """

    visit_s: float
    expert_s: float
    token_s: float
    error: float
    separated: bool
    pass_s: float = 0.0
    submit_s: float = 0.0
    load_s: float = 0.0
    handover_s: float = 0.0

    def seconds(
        self,
        experts: ArrayLike,
        tokens: ArrayLike,
        loads: ArrayLike = 0.0,
        submits: ArrayLike = 0.0,
    ) -> NDArray[np.float64]:
        """Return the seconds of visits of these sizes [visits]."""
        table = [self.visit_s, self.expert_s, self.token_s, self.load_s, self.submit_s]
        return _design(experts, tokens, loads, submits) @ np.asarray(table)

    def times(self, factor: float) -> Costs:
        """Return the table with every cost of a visit multiplied."""
        names = ("visit_s", "expert_s", "token_s", "submit_s", "load_s")
        return replace(self, **{name: factor * getattr(self, name) for name in names})

    def profile(self, hardware: HardwareProfile) -> HardwareProfile:
        """Return the profile with its costs replaced by these."""
        return replace(
            hardware,
            visit_s=self.visit_s,
            expert_s=self.expert_s,
            pass_s=self.pass_s,
            submit_s=self.submit_s,
            handover_s=self.handover_s,
            load_s=self.load_s,
            source=f"{hardware.source}; costs fitted to a live run, {self.error:.1%} off",
        )


def fit(
    experts: ArrayLike,
    tokens: ArrayLike,
    seconds: ArrayLike,
    loads: ArrayLike = 0.0,
    submits: ArrayLike = 0.0,
) -> Costs:
    """Fit the costs to the timings of a run.

    Visits of equal size are represented by their median, which is robust to interruptions; the
    costs are the weighted least squares fit to the medians, with no negative cost.

    Args:
        experts: experts computed on the device in every visit [visits].
        tokens: tokens of every visit [visits].
        seconds: of every visit, without waiting for loads [visits].
        loads: experts of every visit that had just been loaded, prefetches included [visits];
            default none.
        submits: plans with loads in every visit [visits]; default none.

    Raises:
        ValueError: no visits, or columns of different lengths.
    """
    took = np.asarray(seconds, np.float64)
    if not np.size(took) or not np.size(experts) == np.size(tokens) == np.size(took):
        raise ValueError(
            f"costs: {np.size(experts)} experts, {np.size(tokens)} tokens, {np.size(took)} "
            "seconds: expected one of each per visit, from a run with at least one"
        )
    sizes, group, counts = np.unique(
        _design(experts, tokens, loads, submits), axis=0, return_inverse=True, return_counts=True
    )
    medians = np.asarray([np.median(took[group.ravel() == i]) for i in range(len(sizes))])
    table, separated = _least_squares(sizes, medians, np.sqrt(counts))
    fitted = (sizes @ table)[group.ravel()]
    return Costs(
        visit_s=float(table[0]),
        expert_s=float(table[1]),
        token_s=float(table[2]),
        error=float(np.abs(fitted - took).mean() / took.mean()),
        separated=separated,
        load_s=float(table[3]),
        submit_s=float(table[4]),
    )


def _design(
    experts: ArrayLike, tokens: ArrayLike, loads: ArrayLike, submits: ArrayLike
) -> NDArray[np.float64]:
    """Return the design matrix: how often every visit had each cost [visits, costs]."""
    columns = np.broadcast_arrays(1.0, experts, tokens, loads, submits)
    design = np.stack([np.atleast_1d(column) for column in columns], axis=1).astype(np.float64)
    design[:, 2] -= 1
    return design


def _least_squares(
    design: NDArray[np.float64], values: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[NDArray[np.float64], bool]:
    """Return a non-negative weighted least squares fit: (coefficients, column 1 independent)."""
    columns = range(design.shape[1])
    scaled, wanted = design * weights[:, None], values * weights
    best, least = np.zeros(len(columns)), np.inf
    subsets = [list(s) for n in range(1, len(columns) + 1) for s in combinations(columns, n)]
    for subset in subsets:
        part = scaled[:, subset]
        if np.linalg.matrix_rank(part) < len(subset):
            continue
        solution = np.linalg.lstsq(part, wanted, rcond=None)[0]
        error = float(np.square(part @ solution - wanted).sum())
        if solution.min() >= 0 and error < least * (1 - 1e-9):
            best, least = np.zeros(len(columns)), error
            best[subset] = solution
    return best, bool(np.linalg.matrix_rank(scaled[:, :2]) == 2)
