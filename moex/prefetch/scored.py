"""Shared by all prefetchers that score experts: how many of a layer are predicted."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import nlargest
from typing import TYPE_CHECKING, Any

import numpy as np

from moex.prefetch.base import Prefetcher
from moex.types import DEEPEST, PREFILL, Expert, Prediction

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from moex.trace.format import Trace
    from moex.types import Access, Geometry


@dataclass
class ScoredPrefetcher(Prefetcher):
    """A subclass scores the experts of the layers ahead; the fields choose which are predicted.

    When decoding, a layer's `width` best are predicted (0: the model's top-k), or with `mass` the
    fewest whose scores sum to that share of the layer's total, and at most `budget_bytes` of
    experts a layer. In prefill every expert with a positive score is predicted, because most of the
    next layer's experts are demanded. Nearer layers are first.

    Args:
        depth: layers ahead, 1 to 3.
        width: experts predicted a layer, 0 for top-k.
        mass: a share in (0, 1] instead of `width`; 0 for none.
        budget_bytes: bytes of whole experts a layer; 0 for no limit.

    Raises:
        ValueError: a field outside its range, or both `width` and `mass`.
    """

    depth: int = 1
    width: int = 0
    mass: float = 0.0
    budget_bytes: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= DEEPEST:
            raise ValueError(f"prefetch.depth={self.depth}: expected 1 to {DEEPEST} layers ahead")
        if self.width < 0:
            raise ValueError(f"prefetch.width={self.width}: expected 0 (top-k) or more experts")
        if not 0 <= self.mass <= 1:
            raise ValueError(f"prefetch.mass={self.mass}: expected 0 (none) or a share in (0, 1]")
        if self.width and self.mass:
            raise ValueError(
                f"prefetch.width={self.width} prefetch.mass={self.mass}: expected one of them; "
                "try prefetch.width=0"
            )
        if self.budget_bytes < 0:
            raise ValueError(
                f"prefetch.budget_bytes={self.budget_bytes}: expected 0 (none) or more"
            )

    def reset(self, geometry: Geometry, seed: int) -> None:
        """Set how many experts are predicted a layer, and how many the budget allows."""
        self.named = self.width or geometry.top_k
        self.paid = geometry.experts
        if self.budget_bytes:
            self.paid = self.budget_bytes // geometry.expert_bytes

    def name(self, access: Access, ahead: Sequence[Sequence[float]]) -> Iterator[Prediction]:
        """Yield the predicted experts, nearer layers first, best first.

        Args:
            access: the running visit.
            ahead: `ahead[d - 1][i]` scores expert i of layer `access.layer + d`; none negative.
        """
        for layer, scores in enumerate(ahead[: self.depth], start=access.layer + 1):
            all_scores = access.phase == PREFILL or self.mass
            best = nlargest(
                len(scores) if all_scores else self.named,
                range(len(scores)),
                key=scores.__getitem__,
            )
            wanted = self.mass * sum(scores) if access.phase != PREFILL and self.mass else None
            got = 0.0
            for index in best[: self.paid]:
                if not scores[index] or (wanted is not None and got >= wanted):
                    break
                got += scores[index]
                yield Prediction(Expert(layer, index), scores[index])

    def name_all(self, trace: Trace, ahead: Any) -> tuple[Any, Any]:
        """Return what `name` yields in every visit of a trace, as `Prefetcher.predictions`.

        Args:
            trace: the visits.
            ahead: the scores of the layers ahead, as in a trace's `lookahead`.
        """
        import numba

        chosen = np.array([min(self.named, self.paid), self.paid])
        most = self.depth * chosen[trace.prefill.astype(np.int64)].sum()
        offsets, found = np.zeros(len(trace) + 1, np.int64), np.zeros(most, np.int64)
        rank = numba.njit(_rank, cache=True)
        shape = self.depth, trace.geometry.experts
        count = rank(ahead, trace.layer, trace.prefill, *shape, chosen, offsets, found)
        return offsets, found[:count]


def _rank(
    ahead: Any,
    layers: Any,
    prefill: Any,
    depth: int,
    experts: int,
    chosen: Any,
    offsets: Any,
    found: Any,
) -> int:
    """Fill in each visit's best experts of positive score; equals are ordered by index."""
    count = 0
    for visit in range(len(layers)):
        most = chosen[int(prefill[visit])]
        for distance in range(depth):
            scores = ahead[visit, distance * experts : (distance + 1) * experts]
            begin = end = count
            for expert in range(experts):
                score = scores[expert]
                if not score > 0:  # nan: no such layer
                    continue
                if end - begin < most:
                    end += 1
                elif most == 0 or score <= scores[found[end - 1]]:
                    continue
                at = end - 1
                while at > begin and score > scores[found[at - 1]]:
                    found[at] = found[at - 1]
                    at -= 1
                found[at] = expert
            for at in range(begin, end):
                found[at] += (layers[visit] + 1 + distance) * experts
            count = end
        offsets[visit + 1] = count
    return count
