"""No cache at all: the baseline of caching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moex.cache.array_policy import ArrayPolicy

if TYPE_CHECKING:
    from moex.cache.array_policy import Moment


@dataclass
class NoCache(ArrayPolicy):
    """Keep nothing: every demanded expert passes through staging and is loaded again next time.

    "Without LRU cache" of Eliseev & Mazur 2023 (arXiv 2312.17238, table 2). The slots stay empty,
    though `capacity_bytes` counts them; memory.slots=0 does the same without them. Prefetching
    still works, with the staging slots.
    """

    @staticmethod
    def admits(state: Any, expert: int, now: Moment) -> bool:
        """Admit no expert."""
        return False
