"""Whether so many slots can serve a model at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moex.cache.base import CachePolicy
    from moex.types import Future, Geometry

POOLS = ("layer", "global")
TIERS = ("inclusive", "exclusive")
ALLOCATIONS = ("equal", "global", "marginal", "dynamic")


def check_capacity(
    geometry: Geometry, slots: int | Sequence[int], staging: int, pool: str
) -> list[int]:
    """Return the residents of every layer; refuse a capacity that no model has.

    Raises:
        ValueError: the setting, and one that works.
    """
    geometry.check("geometry")
    if pool not in POOLS:
        raise ValueError(f"memory.pool={pool!r}: expected one of {', '.join(POOLS)}")
    several = isinstance(slots, Sequence)
    each = [*slots] if isinstance(slots, Sequence) else [int(slots)] * geometry.layers
    usual = min(2 * geometry.top_k, geometry.experts)
    if len(each) != geometry.layers:
        raise ValueError(
            f"memory.slots: a list of {len(each)}, for a model of {geometry.layers} MoE layers; "
            f"expected one number a layer, or one for all; try memory.slots={usual}"
        )
    if pool == "global" and several:
        raise ValueError(
            "memory.slots: a list gives each layer its own, with memory.pool=global, where layers "
            "share all; expected one number; try memory.pool=layer"
        )
    wrong = [count for count in each if not 0 <= count <= geometry.experts]
    if wrong:
        raise ValueError(
            f"memory.slots={wrong[0]}: expected 0 (every expert passes through staging) to "
            f"{geometry.experts} (all of a layer); try memory.slots={usual}"
        )
    check_staging(staging, geometry)
    return each


def uneven(slots: Sequence[int]) -> list[int]:
    """Return the slots of every layer where layers differ, else nothing."""
    return list(slots) if len({*slots}) > 1 else []


def check_future(policy: CachePolicy, future: Future | None) -> None:
    """Refuse a policy that needs the future where there is none.

    Raises:
        ValueError: it needs a recording.
    """
    if "future" in policy.needs and future is None:
        raise ValueError(
            f"{type(policy).__name__} needs the future of the run: give it a recorded "
            "trace (mode=simulate trace=FILE), or run it live, where a recording is made first"
        )


def check_staging(staging: int, geometry: Geometry) -> None:
    """Check the number of staging slots.

    Raises:
        ValueError: no slot, or more slots than the model has experts.
    """
    usual = 2 * geometry.top_k
    most = max(usual, geometry.layers * geometry.experts)
    if not 1 <= staging <= most:
        raise ValueError(
            f"memory.staging={staging}: expected at least 1 slot to load into, at most {most} (all "
            f"experts of the model); try memory.staging={usual}"
        )
