"""Absent experts are replaced by held ones that are often chosen together with them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from moex.paths import trace_path
from moex.routing.base import RoutingPolicy, check_range
from moex.trace.format import read_trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moex.routing.base import RoutingView
    from moex.types import Geometry

MOST = 16
"""Buddies of an expert."""


@dataclass
class Buddy(RoutingPolicy):
    """Replace an absent expert by its first held buddy: BuddyMoE, arXiv 2511.10054.

    q(j | i) is the share of j among the experts that were chosen together with i, counted in a
    trace. The buddies of i are the fewest of largest q that together reach `alpha`, at most 16. A
    token's absent experts are replaced only if the entropy of its weights, divided by log k, is
    above `tau`, and if less than `beta` of its experts are absent. Implemented from notes on the
    paper, which give no `tau`.

    Args:
        trace: a trace file of this model, or the name of a bundled one; only visits of one token
            count.
        alpha: cumulative q of an expert's buddies; 0 is the model's own routing.
        tau: least normalized entropy.
        beta: share of absent experts from which all are loaded; the paper's .5 would replace none
            at top-2.
    """

    residency_dependent: ClassVar[bool] = True

    trace: str = "tiny"
    alpha: float = 0.9
    tau: float = 0.5
    beta: float = 1.0

    def __post_init__(self) -> None:
        check_range("routing.alpha", self.alpha, 0, 1)
        check_range("routing.tau", self.tau, 0, 1)
        check_range("routing.beta", self.beta, 0, 1)

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Count buddies, once a file."""
        self.buddies = buddies(self.trace, self.alpha, *geometry[:3])

    def choose(self, view: RoutingView) -> NDArray[np.int64]:
        """Replace token by token, in top-k order."""
        chosen, k = view.index.copy(), view.index.shape[1]
        shares = np.maximum(view.shares, 1e-30)
        entropy = -(shares * np.log(shares)).sum(1) / np.log(max(k, 2))
        absent = ~view.held[view.index]
        replaced = (entropy > self.tau) & (absent.mean(1) < self.beta)
        for token in np.flatnonzero(replaced).tolist():
            for place in np.flatnonzero(absent[token]).tolist():
                used = chosen[token].tolist()
                for each in self.buddies[view.layer][used[place]]:
                    there = view.held[each] and view.allowed[token, each]
                    if there and each not in used:
                        chosen[token, place] = each
                        break
        return chosen


@cache
def buddies(
    name: str, alpha: float, layers: int, experts: int, top_k: int
) -> list[list[tuple[int, ...]]]:
    """Return the buddies of every expert of every layer, most frequent first.

    Raises:
        ValueError: the trace is of another model, or has no visit of one token.
    """
    trace = read_trace(trace_path(name), "routing.trace")
    theirs = trace.geometry[:3]
    if theirs != (layers, experts, top_k):
        raise ValueError(
            f"routing.trace={name}: of another model, with {theirs[0]} layers x {theirs[1]} "
            f"experts, top-{theirs[2]}; expected {layers} x {experts}, top-{top_k}; try "
            "routing=none, or a trace of mode=live with this model"
        )
    counts = np.zeros((layers, experts, experts))
    for access in trace.accesses():
        if len(access.experts) == top_k:
            pairs = np.ix_([access.layer], access.experts, access.experts)
            counts[pairs] += 1
    counts[:, range(experts), range(experts)] = 0
    if not counts.any():
        raise ValueError(
            f"routing.trace={name}: no visit of one token chooses two experts; expected a trace of "
            "decoding; try routing=none"
        )
    return [[_prefix(row, alpha) for row in layer] for layer in counts]


def _prefix(row: NDArray[np.float64], alpha: float) -> tuple[int, ...]:
    """Return the fewest experts of largest count that reach a share of `alpha`."""
    order = np.argsort(-row, kind="stable")
    shares = row[order] / max(row.sum(), 1.0)
    before = np.cumsum(shares) - shares
    kept = order[(before < alpha) & (shares > 0)]
    return tuple(kept[:MOST].tolist())
