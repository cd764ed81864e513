"""Experts of much less weight than a token's best are left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from moex.routing.base import NONE, RoutingPolicy, check_layers, check_range, of_layer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moex.routing.base import RoutingView
    from moex.types import Geometry


@dataclass
class Fewer(RoutingPolicy):
    """Drop experts whose weight is below `ratio` of the best one's: Lu et al. 2024 (NotAllExperts).

    arXiv 2402.14800, for top-2: the second is dropped if w2 / w1 < beta, where beta is the median
    of w2 / w1 in a layer on calibration text. With more experts each is compared with the first.

    Args:
        ratio: beta, one for all layers or one for each; 0 is the model's own routing.
    """

    ratio: float | list[float] = 0.5

    def __post_init__(self) -> None:
        check_range("routing.ratio", self.ratio, 0, 1)

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Check that a list has a value for each layer."""
        check_layers("routing.ratio", self.ratio, geometry)

    def choose(self, view: RoutingView) -> NDArray[np.int64]:
        """Drop what is below the ratio."""
        best = view.shares.max(1, keepdims=True)
        light = view.shares < of_layer(self.ratio, view.layer) * best
        return np.where(light, NONE, view.index)
