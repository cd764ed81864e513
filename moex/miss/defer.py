"""Absent experts of low rank are computed one layer later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from moex.miss.base import MissHandler, Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.hardware.profile import HardwareProfile
    from moex.types import Access, Expert, Geometry


@dataclass
class Defer(MissHandler):
    """Do not wait for a miss among the `experts` of lowest score: its output comes one layer later.

    It is loaded behind the other misses, computed from the input of its own layer with its own
    weight during the visit of the next MoE layer, and added to that layer's output. Lossy: logits
    depend on which experts are resident. Never in the last layer. Expert deferral of KTransformers
    (Chen et al. 2025, SOSP), which defers the lowest experts whether they are resident or not.

    Ranks are of the whole visit, whose scores are summed over the batch. Where not all misses of a
    visit fit into free slots at once, or deferred ones would take all of staging, none is deferred.

    Args:
        experts: so many at most; fewer than top-k, so that something is computed at once.
    """

    lossy: ClassVar[bool] = True
    defers: ClassVar[bool] = True

    experts: int = 1

    def bound(self, geometry: Geometry, hardware: HardwareProfile | None) -> Self:
        """Check that at least one expert of a token is computed at once."""
        if not 0 <= self.experts < geometry.top_k:
            raise ValueError(
                f"miss.experts={self.experts}: expected 0 or more, and less than top-k = "
                f"{geometry.top_k}, so that something is computed at once; "
                f"try miss.experts={geometry.top_k // 2}"
            )
        return self

    def split(self, access: Access, missing: Sequence[Expert], room: int) -> Split:
        """Defer the misses among the experts of lowest score, fetch the others."""
        if not self.experts:
            return Split(missing)
        scores = access.scores
        if not scores:
            raise ValueError(
                "miss=defer: the visits have no router scores; expected a model whose routers give "
                "scores, or a trace with scores; try miss=fetch"
            )
        # Of equals, those that come first in top-k order rank higher.
        ranked = sorted(access.experts, key=scores.__getitem__, reverse=True)
        lowest = ranked[-self.experts :]
        deferred = [expert for expert in missing if expert.index in lowest]
        return Split([each for each in missing if each not in deferred], (), (), deferred)
