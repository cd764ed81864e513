"""What a cache policy is: the one decision of who leaves.

A policy never sees tensors, wall clocks, links or hit counters. It is deterministic given its seed
and the sequence of calls, and treats `now.clock` as the only time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Access, Expert, Now, Scope


class CachePolicy(ABC):
    """Decides who leaves one pool of slots. Fields of the dataclass are its hyper-parameters.

    For every visit the cache calls `on_visit`, then `on_access` for all demanded experts in top-k
    order, hits and misses alike, then asks `admit` and `victim` and reports `on_insert` and
    `on_evict`. Only the hooks that a policy overrides are called.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """What the policy must be given: of `future` (a recording of the run it is used on)."""

    bypass: bool = False
    """True: an expert just used competes for its slot like all others and may leave at once.
    False: every loaded expert enters if a slot can be freed, and members of the visit stay."""

    def reset(self, scope: Scope) -> None:
        """Forget everything and start on an empty pool."""

    def on_visit(self, access: Access) -> None:
        """See the whole visit, router row included, before its experts are reported."""

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """See one demanded expert; `hit` says whether it was resident (a guess is not, yet)."""

    def on_insert(self, expert: Expert, now: Now) -> None:
        """See an expert enter a slot."""

    def on_evict(self, expert: Expert, now: Now) -> None:
        """See an expert leave its slot."""

    def admit(self, expert: Expert, now: Now) -> bool:
        """Return whether a loaded expert may enter a slot; refused ones are used and dropped."""
        return True

    @abstractmethod
    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the member of `candidates` that leaves.

        They are ordered by last use, oldest first, ties by lowest index, and are never empty.
        """


class ScoredPolicy(CachePolicy):
    """A policy that only says how much each expert is worth; the lowest leaves.

    Ties: oldest last use, then lowest index (the order in which candidates come).
    """

    @abstractmethod
    def score(self, expert: Expert, now: Now) -> Any:
        """Return the worth of keeping the expert, as a number or a tuple of numbers."""

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the first candidate of lowest score."""
        score = self.score
        return min(candidates, key=lambda expert: score(expert, now))
