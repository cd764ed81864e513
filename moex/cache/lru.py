"""Least recently used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moex.cache.base import CachePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Expert, Now


@dataclass
class LRU(CachePolicy):
    """Evict the expert used longest ago: the baseline of Eliseev & Mazur 2023, arXiv 2312.17238."""

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return the candidate of oldest last use."""
        return candidates[0]
