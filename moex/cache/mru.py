"""Most recently used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Expert, Now


@dataclass
class MRU(CachePolicy):
    """Evict the expert used last before this visit: right for cyclic scans larger than the pool.

    Chou & DeWitt 1985, VLDB. Members of the running visit are kept, so the victim is a member of
    the visit before: the one of highest index.
    """

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the candidate of newest last use."""
        return candidates[-1]
