"""Held experts come first among each token's best M."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from moex.routing.base import RoutingPolicy, check_range, chosen_of, promoted, ranked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from moex.routing.base import RoutingView


@dataclass
class MaxRank(RoutingPolicy):
    """Choose held experts first, but only of a token's `rank` best (arXiv 2412.00099, max-rank).

    Args:
        rank: M; the model's top-k, or less, is its own routing.
        keep: J: so many best experts of a token are always chosen.
        background: whether displaced experts are loaded all the same, behind demand, and admitted.
    """

    residency_dependent: ClassVar[bool] = True

    rank: int = 3
    keep: int = 1
    background: bool = True

    def __post_init__(self) -> None:
        check_range("routing.rank", self.rank, 1)
        check_range("routing.keep", self.keep, 0)

    def choose(self, view: RoutingView) -> NDArray[np.int64]:
        """Take held ones of the best M, then the others of them."""
        best = ranked(view, view.logits)[:, : self.rank]
        return promoted(view, chosen_of(best, len(view.held)), self.keep)
