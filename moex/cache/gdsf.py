"""Greedy dual, with sizes and frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Expert, Now, Scope


@dataclass
class GDSF(CachePolicy):
    """Evict the lowest of age + uses x cost / size (Cherkasova 1998, HPL-98-69).

    Age is the value of the last victim, so an expert that was popular must be used again to stay.
    `weights` holds cost / size for each layer (a load saved per byte held, for layers stored in
    different bits); empty means 1 everywhere, which is LFU with dynamic ageing. Uses count since
    the expert entered.

    Raises:
        ValueError: a weight that is not positive, or fewer weights than layers.
    """

    weights: Sequence[float] = ()

    def __post_init__(self) -> None:
        if any(weight <= 0 for weight in self.weights):
            raise ValueError(f"cache.weights={list(self.weights)}: expected all above 0, or []")

    def reset(self, scope: Scope) -> None:
        """Discard use counts and age."""
        if self.weights and len(self.weights) <= max(scope.layers):
            raise ValueError(
                f"cache.weights: {len(self.weights)} given, expected one per layer, at least "
                f"{max(scope.layers) + 1}, or [] for equal ones; try cache.weights=[]"
            )
        self.weight = {layer: self.weights[layer] if self.weights else 1 for layer in scope.layers}
        self.age = 0.0
        self.uses: dict[Expert, int] = {}
        self.worth: dict[Expert, float] = {}

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """Raise the value of a resident."""
        if hit:
            self.uses[expert] += 1
            self.worth[expert] = self.age + self.uses[expert] * self.weight[expert.layer]

    def on_insert(self, expert: Expert, now: Now) -> None:
        """Start with one use at the present age."""
        self.uses[expert] = 1
        self.worth[expert] = self.age + self.weight[expert.layer]

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the candidate of lowest value."""
        return min(candidates, key=self.worth.__getitem__)

    def on_evict(self, expert: Expert, now: Now) -> None:
        """Set the age to the victim's value."""
        self.age = self.worth.pop(expert)
        del self.uses[expert]
