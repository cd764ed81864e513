"""Absent experts of low score are replaced by held ones of nearly the same score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from moex.routing.base import RoutingPolicy, check_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moex.routing.base import RoutingView


@dataclass
class Substitute(RoutingPolicy):
    """Replace an absent expert near the threshold of being chosen: SMoE, arXiv 2508.18983.

    S is the (k+1)-th score. An absent expert with a score in [S, (1 + margin) S) is replaced by the
    best held expert that was not chosen and has at least (1 - margin) S; without one it is loaded.
    Implemented from notes on the paper: scores are router probabilities, and where several experts
    are absent, the one of higher score chooses first.

    Args:
        margin: a; 0 is the model's own routing.
    """

    residency_dependent: ClassVar[bool] = True
    by_probability: ClassVar[bool] = True

    margin: float = 0.25

    def __post_init__(self) -> None:
        check_range("routing.margin", self.margin, 0, 1)

    def choose(self, view: RoutingView) -> NDArray[np.int64]:
        """Replace token by token."""
        chosen = view.index.copy()
        for token, scores in enumerate(view.probabilities):
            mine = view.index[token]
            others = np.setdiff1d(np.arange(len(scores)), mine)
            if not len(others):
                continue
            limit = scores[others].max()
            near = others[view.held[others] & (scores[others] >= (1 - self.margin) * limit)]
            spare = near[np.argsort(-scores[near], kind="stable")].tolist()
            for place, expert in enumerate(mine.tolist()):
                low = limit <= scores[expert] < (1 + self.margin) * limit
                if low and not view.held[expert] and spare:
                    chosen[token, place] = spare.pop(0)
        return chosen
