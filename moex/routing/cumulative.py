"""Held experts come first among those that together have a share of the router's probability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from moex.routing.base import RoutingPolicy, check_range, promoted, ranked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moex.routing.base import RoutingView


@dataclass
class Cumulative(RoutingPolicy):
    """Choose held experts first, of the fewest best that reach `mass` (arXiv 2412.00099).

    Args:
        mass: cumulative probability; 0 is the model's own routing.
        keep: J: so many best experts of a token are always chosen.
        background: whether displaced experts are loaded all the same, behind demand, and admitted.
    """

    residency_dependent: ClassVar[bool] = True
    by_probability: ClassVar[bool] = True

    mass: float = 0.7
    keep: int = 1
    background: bool = True

    def __post_init__(self) -> None:
        check_range("routing.mass", self.mass, 0, 1)
        check_range("routing.keep", self.keep, 0)

    def choose(self, view: RoutingView) -> NDArray[np.int64]:
        """Take held ones of the fewest that reach the mass, then the others of them."""
        order, shares = ranked(view, view.logits), view.probabilities
        sorted_shares = np.take_along_axis(shares, order, 1)
        before = np.cumsum(sorted_shares, 1) - sorted_shares
        candidates = np.zeros(shares.shape, np.bool_)
        np.put_along_axis(candidates, order, before < self.mass, 1)
        return promoted(view, candidates, self.keep)
