"""Minus recent score: eviction by the router's own scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import ScoredPolicy

if TYPE_CHECKING:
    from moex.types import Access, Expert, Now, Scope


@dataclass
class MRS(ScoredPolicy):
    """Evict the expert of lowest recent router score (HybriMoE, Zhong et al. 2025, DAC).

    Every visit, each expert's score becomes `alpha` times its router score (0 outside the `top`
    best) plus `1 - alpha` times what it was: nearly chosen experts count too. The code of the paper
    uses alpha 0.5 and the 12 best, its text about twice top-k, which is what `top=0` means here.
    With several tokens in a visit the scores are sums over them.

    Raises:
        ValueError: a parameter out of range, or a trace without router scores.
    """

    alpha: float = 0.5
    top: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1:
            raise ValueError(f"cache.alpha={self.alpha}: expected a share in (0, 1], e.g. 0.5")
        if self.top < 0:
            raise ValueError(f"cache.top={self.top}: expected a count, or 0 for twice top-k")

    def reset(self, scope: Scope) -> None:
        """Discard all scores."""
        self.best = min(self.top or 2 * scope.top_k, scope.experts)
        self.scores = {layer: [0.0] * scope.experts for layer in scope.layers}

    def on_visit(self, access: Access) -> None:
        """Blend the visit's router row into the layer's scores."""
        row = access.scores
        if not row:
            raise ValueError(
                "trace: holds no router scores, which cache=mrs needs; record them with: "
                "python run.py mode=live, or try cache=lfu cache.decay=0.99"
            )
        kept = 1.0 - self.alpha
        scores = [kept * score for score in self.scores[access.layer]]
        for index in sorted(range(len(row)), key=row.__getitem__, reverse=True)[: self.best]:
            scores[index] += self.alpha * row[index]
        self.scores[access.layer] = scores

    def score(self, expert: Expert, now: Now) -> float:
        """Return the recent router score."""
        return self.scores[expert.layer][expert.index]
