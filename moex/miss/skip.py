"""Absent experts of low routing weight are skipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from moex.miss.base import MissHandler, Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.hardware.profile import HardwareProfile
    from moex.types import Access, Expert, Geometry


@dataclass
class Skip(MissHandler):
    """Skip a miss whose share of the visit's routing weight is below `threshold`.

    Lossy: logits depend on which experts are resident. The weights of the others are scaled up to
    the same sum. The share is taken of the chosen experts' scores in the router row. As in Zhong et
    al. 2024 (AdapMoE), arXiv 2408.10284, and Tang et al. 2024 (HOBBIT), arXiv 2411.01433, without
    their layer sensitivities.

    The share is of the whole visit, whose scores are summed over the batch: one token of a batch
    may lose all of its experts, and then gets 0 from this layer (its residual remains). A single
    token keeps at least its best expert. Traces do not record experts by token, so a replay could
    not treat tokens separately.

    Args:
        threshold: below 1 / top-k, so that a single token always has its best expert computed.
    """

    lossy: ClassVar[bool] = True

    threshold: float = 0.2

    def bound(self, geometry: Geometry, hardware: HardwareProfile | None) -> Self:
        """Check that the threshold leaves at least one expert."""
        if not 0 <= self.threshold < 1 / geometry.top_k:
            raise ValueError(
                f"miss.threshold={self.threshold}: expected 0 or more, and less than 1 / top-k = "
                f"{1 / geometry.top_k:.3g}, so that something is computed; "
                f"try miss.threshold={0.5 / geometry.top_k:.2g}"
            )
        return self

    def split(self, access: Access, missing: Sequence[Expert], room: int) -> Split:
        """Fetch the misses at or above the threshold, skip the others."""
        scores = access.scores
        if not scores:
            raise ValueError(
                "miss=skip: the visits have no router scores; expected a model whose routers give "
                "scores, or a trace with scores; try miss=fetch"
            )
        least = self.threshold * sum(scores[index] for index in access.experts)
        kept = [expert for expert in missing if scores[expert.index] >= least]
        return Split(kept, (), [expert for expert in missing if expert not in kept])
