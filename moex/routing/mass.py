"""The tail of a token's experts is left out while it has little of the weight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moex.routing.base import NONE, RoutingPolicy, check_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moex.routing.base import RoutingView


@dataclass
class Mass(RoutingPolicy):
    """Drop the lightest experts of a token that together have less than `tail` of its weight.

    Args:
        tail: share of the weight of a token's chosen experts; 0 is the model's own routing.
    """

    tail: float = 0.2

    def __post_init__(self) -> None:
        check_range("routing.tail", self.tail, 0, 1)

    def choose(self, view: RoutingView) -> NDArray[np.int64]:
        """Sum weights from the lightest; the heaviest always stays."""
        order = np.argsort(view.shares, axis=1, kind="stable")
        sums = np.cumsum(np.take_along_axis(view.shares, order, 1), 1)
        light = sums < self.tail
        light[:, -1] = False
        dropped = np.zeros(light.shape, np.bool_)
        np.put_along_axis(dropped, order, light, 1)
        return np.where(dropped, NONE, view.index)
