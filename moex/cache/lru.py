"""Least recently used."""

from __future__ import annotations

from dataclasses import dataclass

from moex.cache.array_policy import ArrayPolicy


@dataclass
class LRU(ArrayPolicy):
    """Evict the expert used longest ago: the baseline of Eliseev & Mazur 2023, arXiv 2312.17238.

    It needs no rule: all experts score the same, and of equals the one used longest ago is evicted.
    """
