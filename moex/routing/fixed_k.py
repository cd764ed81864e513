"""A fixed number of experts for every token of a layer."""

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
class FixedK(RoutingPolicy):
    """Keep the `k` heaviest experts of every token, as LExI does with a k for each layer.

    Args:
        k: experts a token, one number for all layers or one for each; the model's top-k, or more,
            is its own routing.
    """

    k: int | list[int] = 1

    def __post_init__(self) -> None:
        check_range("routing.k", self.k, 1)  # type: ignore[arg-type]

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Check that a list has a number for each layer."""
        check_layers("routing.k", self.k, geometry)  # type: ignore[arg-type]

    def choose(self, view: RoutingView) -> NDArray[np.int64]:
        """Keep the heaviest."""
        rank = np.argsort(np.argsort(-view.weights, axis=1, kind="stable"), axis=1, kind="stable")
        return np.where(rank < of_layer(self.k, view.layer), view.index, NONE)  # type: ignore[arg-type]
