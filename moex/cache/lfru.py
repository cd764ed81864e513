"""Least frequently and least recently used, as one ratio."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import ScoredPolicy

if TYPE_CHECKING:
    from moex.types import Expert, Now, Scope


@dataclass
class LFRU(ScoredPolicy):
    """Evict the expert with the fewest uses per visit of age (tinyserve, vLLM, colibri).

    Age is the number of visits since the last use, so a hot expert survives a pause and a cold one
    is not kept for one recent use. The best causal policy in 12 of 13 workloads of arXiv
    2608.07911. Its sources do not say whether counts survive eviction; there they do, so
    `perfect=True` is the default and `perfect=False` forgets them.
    """

    perfect: bool = True

    def reset(self, scope: Scope) -> None:
        """Discard all uses."""
        self.counts: dict[Expert, int] = defaultdict(int)
        self.last: dict[Expert, int] = {}

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """Count the use and note when it was."""
        self.counts[expert] += 1
        self.last[expert] = now.clock

    def on_insert(self, expert: Expert, now: Now) -> None:
        """Restart the count with this use, unless counts are perfect."""
        if not self.perfect:
            self.counts[expert] = 1

    def score(self, expert: Expert, now: Now) -> float:
        """Return uses per visit of age (candidates were not used in this visit: age > 0)."""
        return self.counts[expert] / (now.clock - self.last[expert])
