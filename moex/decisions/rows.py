"""What a memory setting says about rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moex.cache.variants.row_cache import rows_in_slot
from moex.sparsity.neuron_counts import hottest, read_counts

if TYPE_CHECKING:
    from moex.cache.memory import Memory
    from moex.hardware.profile import HardwareProfile
    from moex.types import Geometry


def whole_from(memory: Memory, hardware: HardwareProfile | None, store: str) -> float:
    """Return the share of an expert's rows from which on the whole expert is moved; 1: never."""
    measured = (hardware.break_even if hardware else None) or {}
    share = measured.get(store, 1.0) if memory.break_even is None else memory.break_even
    return share if memory.rows == 1 else 1.0


def known_break_even(memory: Memory, hardware: HardwareProfile | None, store: str) -> float | None:
    """Return the break-even that settings give for a store; None: it is to be measured.

    An emulated link has that of its profile, or moves rows always: measured would be this one's.
    """
    given = hardware is not None and (hardware.timed or hardware.break_even)
    if given or memory.break_even is not None or memory.rows < 1:
        return whole_from(memory, hardware, store)
    return None


def moves_rows(
    memory: Memory, hardware: HardwareProfile | None, store: str, neurons: float | None
) -> bool:
    """Whether rows are moved; else whole experts, of which only selected neurons are computed.

    Rows are if an expert's slot holds only some, or if fewer than the break-even are selected.

    Args:
        memory: rows in a slot, and the break-even if it is set.
        hardware: the profile whose break-even counts otherwise.
        store: name of the store.
        neurons: as in `Decisions`.
    """
    if neurons is None:
        return False
    return memory.rows < 1 or neurons < whole_from(memory, hardware, store)


def row_settings(
    memory: Memory, geometry: Geometry, hardware: HardwareProfile | None, store: str
) -> dict[str, Any]:
    """Return the arguments of `RowCache`; half of a thin slot is kept for hot rows, if known.

    If the setting gives no share of rows from which on whole experts are moved, the hardware
    profile's is taken, if it was measured for this kind of store.

    Raises:
        ValueError: counts of another model.
    """
    hot = None
    if memory.hot is not None:
        counts = read_counts(memory.hot, geometry, "memory.hot")
        capacity = rows_in_slot(memory.rows, geometry.intermediate)
        hot = hottest(counts, capacity // 2) if capacity < geometry.intermediate else None
    return {"rows": memory.rows, "break_even": whole_from(memory, hardware, store), "hot": hot}
