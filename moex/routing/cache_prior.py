"""Experts that are in the cache get a bonus (cache-aware routing)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from moex.routing.base import RoutingPolicy, check_range, chosen_of, ranked

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from moex.routing.base import RoutingView
    from moex.types import Geometry


@dataclass
class CachePrior(RoutingPolicy):
    """Add `strength * Delta` to the logits of held experts: Skliar et al. 2024, arXiv 2412.00099.

    Delta is the layer's running mean of (largest - smallest logit) of a token. The token's own best
    `keep` experts get the bonus, too, so that they are never displaced by held ones. Prompts are
    routed as the model does; Delta is averaged over their tokens as well, which the paper leaves
    open.

    Args:
        strength: lambda; 0 is the model's own routing.
        keep: J; 1 for top-2, 2 for many small experts.
        decay: weight of a new token in the running mean.
        background: whether displaced experts are loaded all the same, behind demand, and admitted,
            so that they can be chosen later; without it the cache stays as it is.
    """

    residency_dependent: ClassVar[bool] = True

    strength: float = 0.1
    keep: int = 1
    decay: float = 0.05
    background: bool = True

    def __post_init__(self) -> None:
        check_range("routing.strength", self.strength, 0)
        check_range("routing.keep", self.keep, 0)
        check_range("routing.decay", self.decay, 0, 1)

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Know no spread of logits."""
        self.spread: dict[int, float] = {}

    def observe(self, view: RoutingView) -> None:
        """Average the spread of every token's logits, in order."""
        least = view.logits.min(1, where=view.allowed, initial=np.inf)
        spreads = (view.logits.max(1) - least).tolist()
        mean = self.spread.get(view.layer, spreads[0])
        for spread in spreads:
            mean += self.decay * (spread - mean)
        self.spread[view.layer] = mean

    def choose(self, view: RoutingView) -> NDArray[np.int64]:
        """Take the best k with the bonus."""
        favoured = chosen_of(view.index[:, : self.keep], len(view.held)) | view.held
        scores = view.logits + self.strength * self.spread[view.layer] * favoured
        return ranked(view, scores)[:, : view.index.shape[1]]
