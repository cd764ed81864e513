"""Builds the row cache that a memory setting asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.cache.row_cache import RowCache
from moex.trace.neurons import hottest, read_counts

if TYPE_CHECKING:
    from moex.cache.core import ExpertCache
    from moex.cache.memory import Memory
    from moex.hardware.profile import HardwareProfile


def whole_from(memory: Memory, hardware: HardwareProfile | None, store: str) -> float:
    """Return the share of an expert's rows from which on the whole expert is moved; 1: never."""
    measured = (hardware.break_even if hardware else None) or {}
    share = measured.get(store, 1.0) if memory.break_even is None else memory.break_even
    return share if memory.rows == 1 else 1.0


def row_cache(
    cache: ExpertCache,
    memory: Memory,
    hardware: HardwareProfile | None = None,
    store: str = "ram",
) -> RowCache:
    """Return a row cache over a cache; half of a thin slot is kept for hot rows, if known.

    If the setting gives no share of rows from which on whole experts are moved, the hardware
    profile's is taken, if it was measured for this kind of store.

    Raises:
        ValueError: a share outside (0, 1], or counts of another model.
    """
    residency = RowCache(cache, memory.rows, whole_from(memory, hardware, store))
    if memory.hot is not None:
        counts = read_counts(memory.hot, cache.geometry, "memory.hot")
        residency.hot = hottest(counts, residency.capacity // 2) if residency.thin else {}
    return residency
