"""Control: absent experts are replaced by held ones at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from moex.routing.base import RoutingPolicy, check_range

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moex.routing.base import RoutingView
    from moex.types import Geometry


@dataclass
class RandomSwap(RoutingPolicy):
    """Replace absent experts by held ones drawn uniformly, until a share of positions is swapped.

    What a method that swaps as often must beat. While fewer than `rate` of a layer's top-k
    positions since the last reset (rounded) were swapped, the next absent expert is. Draws depend
    on seed, visit and token alone.

    Args:
        rate: swapped share of all top-k positions of decoded tokens, where enough experts are
            absent; 0 is the model's own routing.
        keep: so many best experts of a token are never replaced.
        background: whether replaced experts are loaded all the same, behind demand, and admitted.
    """

    residency_dependent: ClassVar[bool] = True

    rate: float = 0.1
    keep: int = 1
    background: bool = True

    def __post_init__(self) -> None:
        check_range("routing.rate", self.rate, 0, 1)
        check_range("routing.keep", self.keep, 0)

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Begin to count."""
        self.seed = seed
        self.swapped, self.seen = [0] * geometry.layers, [0] * geometry.layers

    def choose(self, view: RoutingView) -> NDArray[np.int64]:
        """Swap token by token, position by position."""
        chosen, layer = view.index.copy(), view.layer
        for token, mine in enumerate(view.index.tolist()):
            draw = np.random.Generator(
                np.random.Philox(key=[self.seed, layer], counter=[0, 0, token, view.clock])
            )
            there = np.flatnonzero(view.held & view.allowed[token]).tolist()
            spare = [each for each in there if each not in mine]
            for place, expert in enumerate(mine):
                self.seen[layer] += 1
                due = self.swapped[layer] + 0.5 <= self.rate * self.seen[layer]
                if due and place >= self.keep and spare and not view.held[expert]:
                    chosen[token, place] = spare.pop(int(draw.integers(len(spare))))
                    self.swapped[layer] += 1
        return chosen
