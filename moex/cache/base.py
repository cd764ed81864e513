"""The interface of an eviction policy: it decides which expert is evicted.

A policy never sees tensors, wall clocks, links or hit counters. It is deterministic given its seed
and the sequence of calls, and treats `now.clock` as the only time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar

from moex.types import Future

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Access, Expert, Now, Prediction, Scope

HOOKS = ("on_visit", "on_access", "on_insert", "on_evict", "admit")


class Forecast(Future):
    """When experts will be demanded, as far as the prefetcher predicts it."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self.clear()

    def clear(self) -> None:
        """Know of no prediction."""
        self._expected: dict[Expert, int] = {}

    def update(self, predictions: Sequence[Prediction], access: Access) -> None:
        """Take what is predicted during a visit; of the same layers, earlier predictions go."""
        layers = {expert.layer for expert, *_ in predictions}
        coming = [
            (expert, clock)
            for expert, clock in self._expected.items()
            if clock > access.clock and expert.layer not in layers
        ]
        self._expected = dict(coming)
        for expert, *_ in predictions:
            ahead = (expert.layer - access.layer) % self._layers or self._layers
            self._expected[expert] = access.clock + ahead

    def next_use(self, expert: Expert, after: int) -> float:
        """Return the clock of the next visit that is predicted to demand the expert, or inf."""
        clock = self._expected.get(expert, after)
        return clock if clock > after else inf


class CachePolicy(ABC):
    """Decides which expert of one pool of slots is evicted; dataclass fields are hyper-parameters.

    For every visit the cache calls `on_visit`, then `on_access` for all demanded experts in top-k
    order, hits and misses alike, then asks `admit` and `victim` and reports `on_insert` and
    `on_evict`. Only the hooks that a policy overrides are called.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """What the policy requires: `future`, a recording of the run that it is used on, or `forecast`,
    what the prefetcher predicts. Either is `Scope.future`."""

    bypass: bool = False
    """True: an expert just used competes for its slot like all others and may be evicted at once.
    False: every loaded expert enters if a slot can be freed; members of the visit are kept."""

    def reset(self, scope: Scope) -> None:
        """Discard all state and start with an empty pool."""

    def on_visit(self, access: Access) -> None:
        """Observe the whole visit, router row included, before `on_access` of its experts."""

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """Observe one demanded expert; `hit`: it was resident (an unused prefetch is not)."""

    def on_insert(self, expert: Expert, now: Now) -> None:
        """Observe that an expert enters a slot."""

    def on_evict(self, expert: Expert, now: Now) -> None:
        """Observe that an expert is evicted from its slot."""

    def admit(self, expert: Expert, now: Now) -> bool:
        """Return whether a loaded expert may enter a slot; else it is used once and dropped."""
        return True

    @classmethod
    def hooks(cls) -> set[str]:
        """Return the names of the hooks that this class overrides."""
        return {name for name in HOOKS if getattr(cls, name) is not getattr(CachePolicy, name)}

    @abstractmethod
    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the member of `candidates` to evict.

        They are ordered by last use, oldest first, ties by lowest index, and are never empty.
        """


class ScoredPolicy(CachePolicy):
    """A policy that only scores experts; the one of lowest score is evicted.

    Ties: oldest last use, then lowest index (the order of the candidates).
    """

    @abstractmethod
    def score(self, expert: Expert, now: Now) -> Any:
        """Return the value of keeping the expert, as a number or a tuple of numbers."""

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the first candidate of lowest score."""
        score = self.score
        return min(candidates, key=lambda expert: score(expert, now))
