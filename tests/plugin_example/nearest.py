"""A routing policy of another package."""

from dataclasses import dataclass
from typing import ClassVar

from moex.routing.base import RoutingPolicy


@dataclass
class Nearest(RoutingPolicy):
    """Replace an absent last expert by the next one in line, if that one is held."""

    residency_dependent: ClassVar[bool] = True

    gap: float = 1.0

    def choose(self, view):
        """Swap where the logits are less than `gap` apart."""
        chosen = view.index.copy()
        order = (-view.logits).argsort(1, kind="stable")
        for token, (*_, last, following) in enumerate(order[:, : chosen.shape[1] + 1].tolist()):
            apart = view.logits[token, last] - view.logits[token, following]
            if view.held[following] and not view.held[last] and apart < self.gap:
                chosen[token, chosen[token] == last] = following
        return chosen
