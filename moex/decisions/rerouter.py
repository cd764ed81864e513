"""Lets a routing policy choose the experts of every visit, live and in replay alike."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from moex.routing.base import NONE
from moex.types import DECODE, Expert

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from moex.cache.base import CachePolicy
    from moex.cache.core import ExpertCache
    from moex.prefetch.base import Prefetcher
    from moex.routing.base import RoutingPolicy
    from moex.trace.router_rows import RouterRows


class Choice(NamedTuple):
    """What a visit demands.

    Args:
        rows: of the visit's router, with the final choice.
        experts: the distinct experts that are demanded, in top-k order.
        displaced: those that were replaced, to be loaded behind demand and admitted.
    """

    rows: RouterRows
    experts: tuple[int, ...]
    displaced: tuple[Expert, ...] = ()


@dataclass
class Swaps:
    """Counts of the top-k positions of decoded tokens.

    Args:
        positions: all of them; padding is not counted.
        swapped: those that got another expert than the model's own.
        dropped: those that got none.
    """

    positions: int = 0
    swapped: int = 0
    dropped: int = 0

    def count(self, rows: RouterRows, phase: str) -> None:
        """Count a visit."""
        if phase == DECODE:
            real = ~rows.padding
            own, final = rows.index[real], rows.final[real]
            none = int((final == NONE).sum())
            self.positions += own.size
            self.dropped += none
            self.swapped += int((own != final).sum()) - none

    @property
    def rates(self) -> dict[str, float | None]:
        """The shares as fields of a row."""
        if not self.positions:
            return {"swap_rate": None, "drop_rate": None}
        swapped, dropped = self.swapped / self.positions, self.dropped / self.positions
        return {"swap_rate": swapped, "drop_rate": dropped}


def held(cache: ExpertCache, layer: int) -> NDArray[np.bool_]:
    """Return which experts of a layer are resident or in flight: issued, not arrived."""
    experts = cache.geometry.experts
    bits = (cache.holds(Expert(layer, index)) for index in range(experts))
    return np.fromiter(bits, np.bool_, experts)


def choose(
    policy: RoutingPolicy | None,
    rows: RouterRows,
    cache: ExpertCache,
    visit: tuple[int, int, str],
) -> Choice:
    """Return what a visit demands; residency is read once, before its first wave.

    Args:
        policy: None takes the model's own choice.
        rows: of the visit's router.
        cache: whose residency counts.
        visit: clock, layer and phase.
    """
    clock, layer, phase = visit
    final = rows.index
    if policy is not None:
        final = policy.route(rows, held(cache, layer), layer, phase, clock)
    demanded = dict.fromkeys(chain.from_iterable(final.tolist()))
    demanded.pop(NONE, None)
    displaced: tuple[Expert, ...] = ()
    if policy is not None and policy.background and phase == DECODE:
        lost = dict.fromkeys(rows.index.T[(rows.index != final).T].tolist())
        kept = (index for index in lost if index not in demanded)
        displaced = tuple(Expert(layer, index) for index in kept)
    return Choice(rows._replace(final=final), tuple(demanded), displaced)


def refuse_oracles(
    routing: RoutingPolicy | None, policy: CachePolicy, prefetcher: Prefetcher | None
) -> None:
    """Refuse parts that need the future where it depends on what is resident.

    Raises:
        ValueError: an oracle beside a residency-dependent routing policy.
    """
    if routing is None or not routing.residency_dependent:
        return
    parts: Sequence[tuple[str, CachePolicy | Prefetcher | None]]
    parts = (("cache", policy), ("prefetch", prefetcher))
    for group, part in parts:
        if part is not None and "future" in part.needs:
            better = "cache=lru" if group == "cache" else "prefetch=gate"
            name = type(routing).__module__.rpartition(".")[2]
            raise ValueError(
                f"{group}={type(part).__name__.lower()} with routing={name}: "
                "what is demanded depends on what is resident, so no recording is the future; "
                f"expected a part without one; try {better}"
            )
