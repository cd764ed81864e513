"""No cache at all: the baseline of caching."""

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
    though `capacity_bytes` counts them: memory.slots=2 (the model's top-k) is the minimum.
    Prefetching still works, with the staging slots.
    """

    def admit(self, expert: Expert, now: Now) -> bool:
        """Admit no expert."""
        return False

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return any candidate; never called, because no expert is resident."""
        return candidates[0]
