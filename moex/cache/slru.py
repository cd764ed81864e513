"""Segmented least recently used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Expert, Now, Scope


@dataclass
class SLRU(CachePolicy):
    """Protect experts that were used again from eviction by new ones.

    Karedla, Love & Wherry 1994, IEEE Computer. New experts are on probation; a second use promotes
    them, and when the protected segment exceeds its share its least recently used goes back to the
    young end of probation. The oldest on probation is evicted; if all of them are members of the
    visit, the oldest protected one.

    Raises:
        ValueError: `protected` outside (0, 1).
    """

    protected: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.protected < 1:
            raise ValueError(f"cache.protected={self.protected}: expected a share in (0, 1): 0.8")

    def reset(self, scope: Scope) -> None:
        """Empty both segments (dicts keep their order)."""
        self.room = int(scope.capacity * self.protected)
        self.probation: dict[Expert, None] = {}
        self.shielded: dict[Expert, None] = {}

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """Promote or refresh a resident."""
        if not hit:
            return
        self.probation.pop(expert, None)
        self.shielded.pop(expert, None)
        self.shielded[expert] = None
        if len(self.shielded) > self.room:
            oldest = next(iter(self.shielded))
            del self.shielded[oldest]
            self.probation[oldest] = None

    def on_insert(self, expert: Expert, now: Now) -> None:
        """Append the expert to the probation segment."""
        self.probation[expert] = None

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the oldest on probation, else the oldest protected."""
        free = next((expert for expert in self.probation if expert in candidates), None)
        return free or next(expert for expert in self.shielded if expert in candidates)

    def on_evict(self, expert: Expert, now: Now) -> None:
        """Remove the expert from its segment."""
        self.probation.pop(expert, None)
        self.shielded.pop(expert, None)
