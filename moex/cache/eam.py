"""Expert activation in the running request, weighted by the distance of the layer."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import ScoredPolicy
from moex.types import Expert

if TYPE_CHECKING:
    from moex.types import Access, Now, Scope


class Activations:
    """How often the running request used each expert; earlier requests count with weight `past`."""

    def __init__(self, past: float) -> None:
        self.past = past
        self.uses: dict[Expert, float] = defaultdict(float)
        self.totals: dict[int, float] = defaultdict(float)
        self.before = (-1, -1)

    def count(self, access: Access) -> bool:
        """Count a visit; return whether a request begins with it: where positions fall back."""
        here = (access.position, access.layer)
        begins = here <= self.before
        if begins:
            for expert in self.uses:
                self.uses[expert] *= self.past
            for layer in self.totals:
                self.totals[layer] *= self.past
        self.before = here
        self.totals[access.layer] += len(access.experts)
        for index in access.experts:
            self.uses[Expert(access.layer, index)] += 1
        return begins

    def share(self, expert: Expert) -> float:
        """Return the expert's share of its layer's activations."""
        total = self.totals[expert.layer]
        return self.uses[expert] / total if total else 0.0


@dataclass
class EAM(ScoredPolicy):
    """Keep experts that this request activates, of layers soon visited (MoE-Infinity).

    arXiv 2401.14361. Score = (share of the layer's activations in this request + `floor`) x
    nearness, where nearness falls from 1 for the next layer to 1 / layers for the layer just
    passed. The paper weights layers by their number alone (1 - layer / layers); here distance is
    counted ahead from the running layer, around to the next pass. With one pool per layer nearness
    is the same for all, and the policy is LFU within a request. A request begins where positions
    fall back. The paper's store of past requests guides `prefetch=eam` and is not part of this
    policy; instead, earlier requests count with weight `past`.

    Raises:
        ValueError: a parameter outside its range.
    """

    floor: float = 1e-3
    past: float = 0.1

    def __post_init__(self) -> None:
        if self.floor <= 0:
            raise ValueError(f"cache.floor={self.floor}: expected a share above 0, e.g. 0.001")
        if not 0 <= self.past <= 1:
            raise ValueError(f"cache.past={self.past}: expected a weight in [0, 1], e.g. 0.1")

    def reset(self, scope: Scope) -> None:
        """Forget all requests."""
        self.layers = max(scope.layers) + 1 - min(scope.layers)
        self.activations = Activations(self.past)

    def on_visit(self, access: Access) -> None:
        """Count the visit."""
        self.activations.count(access)

    def score(self, expert: Expert, now: Now) -> float:
        """Return the share of the request's activations, times nearness."""
        share = self.activations.share(expert)
        ahead = (expert.layer - now.layer - 1) % self.layers
        return (share + self.floor) * (1 - ahead / self.layers)
