"""No cache at all: the row that caching must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Expert, Now


@dataclass
class NoCache(CachePolicy):
    """Keep nothing: every demanded expert passes through staging and is loaded again next time.

    "Without LRU cache" of Eliseev & Mazur 2023 (arXiv 2312.17238, table 2). The slots stay empty,
    though `capacity_bytes` counts them: memory.slots=2 (the model's top-k) is the least there is.
    Prefetching still works, into the staging places.
    """

    def admit(self, expert: Expert, now: Now) -> bool:
        """Refuse everybody."""
        return False

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Nobody is resident, so nobody can be asked to leave."""
        return candidates[0]
