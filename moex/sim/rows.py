"""The books of rows that a memory setting asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.cache.rows import RowCache
from moex.trace.neurons import hottest, read_counts

if TYPE_CHECKING:
    from moex.cache.capacity import Memory
    from moex.cache.core import ExpertCache


def row_cache(cache: ExpertCache, memory: Memory) -> RowCache:
    """Make the books of rows over a cache; half of a thin place is kept for hot rows, if known.

    Raises:
        ValueError: a share outside (0, 1], or counts of another model.
    """
    books = RowCache(cache, memory.rows, memory.break_even)
    if memory.hot is not None and books.thin:
        counts = read_counts(memory.hot, cache.geometry, "memory.hot")
        books.hot = hottest(counts, books.capacity // 2)
    return books
