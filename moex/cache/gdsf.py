"""Greedy dual, with sizes and frequencies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moex.cache.array_policy import ArrayPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.cache.array_policy import Moment
    from moex.types import Scope


@dataclass
class GDSF(ArrayPolicy):
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

    def state(self, scope: Scope) -> dict[str, Any]:
        """Return no uses, and the weight of every expert."""
        if self.weights and len(self.weights) <= max(scope.layers):
            raise ValueError(
                f"cache.weights: {len(self.weights)} given, expected one per layer, at least "
                f"{max(scope.layers) + 1}, or [] for equal ones; try cache.weights=[]"
            )
        weight = [float(self.weights[la]) if self.weights else 1.0 for la in scope.layers]
        return {
            "uses": [0] * scope.size,
            "value": [0.0] * scope.size,
            "weight": [each for each in weight for _ in range(scope.experts)],
            "age": [0.0],
        }

    @staticmethod
    def used(state: Any, expert: int, now: Moment, hit: bool) -> None:
        """Raise the value of a resident."""
        if hit:
            state.uses[expert] += 1
            state.value[expert] = state.age[0] + state.uses[expert] * state.weight[expert]

    @staticmethod
    def entered(state: Any, expert: int, now: Moment) -> None:
        """Start with one use at the present age."""
        state.uses[expert] = 1
        state.value[expert] = state.age[0] + state.weight[expert]

    @staticmethod
    def score(state: Any, expert: int, now: Moment) -> float:
        """Return the value."""
        return state.value[expert]

    @staticmethod
    def evicted(state: Any, expert: int, now: Moment) -> None:
        """Set the age to the victim's value."""
        state.age[0] = state.value[expert]
