"""Whether so many slots can serve a model at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from moex.cache.base import CachePolicy
    from moex.types import Future, Geometry

POOLS = ("layer", "global")


def check_capacity(geometry: Geometry, slots: int, staging: int, pool: str) -> None:
    """Refuse a capacity that cannot serve one visit.

    Raises:
        ValueError: the setting, and one that works.
    """
    geometry.check("geometry")
    if pool not in POOLS:
        raise ValueError(f"memory.pool={pool!r}: expected one of {', '.join(POOLS)}")
    if not geometry.top_k <= slots <= geometry.experts:
        raise ValueError(
            f"memory.slots={slots}: expected {geometry.top_k} (the experts that one "
            f"token needs in a layer) to {geometry.experts} (all of them); "
            f"try memory.slots={min(2 * geometry.top_k, geometry.experts)}"
        )
    check_staging(staging, geometry)


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
