"""Least frequently used within a window."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import CachePolicy
from moex.types import Expert

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Access, Now, Scope


@dataclass
class WindowLFU(CachePolicy):
    """Evict the expert used least often in the last `window` passes.

    Karakostas & Serpanos 2002, ISCC; for experts the workload-aware window of DALI, which counts
    tokens where this counts visits (they are the same when one token is decoded).

    Raises:
        ValueError: `window` below 1.
    """

    window: int = 64

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"cache.window={self.window}: expected passes from 1, e.g. 64")

    def reset(self, scope: Scope) -> None:
        """Start with an empty window."""
        self.span = self.window * len(scope.layers)
        self.visits: deque[tuple[int, tuple[int, ...]]] = deque()
        self.counts = {
            Expert(layer, index): 0 for layer in scope.layers for index in range(scope.experts)
        }

    def on_visit(self, access: Access) -> None:
        """Slide the window."""
        counts = self.counts
        self.visits.append((access.layer, access.experts))
        for index in access.experts:
            counts[Expert(access.layer, index)] += 1
        if len(self.visits) > self.span:
            layer, experts = self.visits.popleft()
            for index in experts:
                counts[Expert(layer, index)] -= 1

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the candidate of lowest count."""
        return min(candidates, key=self.counts.__getitem__)
