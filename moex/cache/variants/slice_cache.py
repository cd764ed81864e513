"""The cache of slices: which experts are resident, and which of them with their low slice, too.

A record may be cut into a high slice, which computes alone in fewer bits, and a low slice, which
refines it. An expert is resident at a level: ABSENT, HIGH (its high slice) or WHOLE (both).
"""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import TYPE_CHECKING, Any

from moex.cache.core import ExpertCache
from moex.cache.limits import check_capacity
from moex.types import DECODE, Load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from moex.cache.base import CachePolicy
    from moex.types import Access, Eviction, Expert, Geometry, Plan, Prediction

ABSENT, HIGH, WHOLE = range(3)


class SliceCache(ExpertCache):
    """An `ExpertCache` whose slots hold high slices; low slices are in slots of their own.

    Which experts are resident is decided exactly as it is without slices, by the policy, but in the
    same bytes more of them are. A low slice is loaded when a visit asks for the whole expert. Low
    slices leave first: if all their slots are taken, that of the expert asked for whole longest ago
    is overwritten, in whichever layer; and none outlives its high slice. Prompts ask for whole
    experts. Prefetches load high slices only: the level that is asked for is known with the scores
    of the visit itself.

    Args:
        policy: evicts experts.
        geometry: of the model or trace.
        slots: residents per layer, if all were whole: their bytes are divided here.
        pool: "layer" or "global".
        staging: slots beside the residents'; default `2 * top_k`.
        given: further arguments of `ExpertCache`.
        slices: bytes of the high and of the low slice.
        levels: the level that a decoding visit asks of each of its experts, in their order.
        whole: the share of the residents whose low slices have room, too, at least.

    Raises:
        ValueError: a capacity that cannot serve one visit, or a share outside 0 to 1.
    """

    def __init__(
        self,
        policy: CachePolicy,
        geometry: Geometry,
        slots: int | Sequence[int],
        pool: str = "layer",
        staging: int | None = None,
        *given: Any,
        slices: tuple[int, int],
        levels: Callable[[Access], Sequence[int]],
        whole: float = 1.0,
    ) -> None:
        staging = 2 * geometry.top_k if staging is None else staging
        check_capacity(geometry, slots, staging, pool)
        assert isinstance(slots, int), "refused by Decisions"
        self.levels, self.slices = levels, slices
        self.spans = (0, slices[0]), (slices[0], sum(slices))
        resident, self.low_slots = divide(geometry, slots, pool, staging, slices, whole)
        super().__init__(policy, geometry, resident, pool, staging, *given)
        self.whole_slots, self.reads_scores = slots, True

    def reset(self) -> None:
        """Discard all state."""
        super().reset()
        self._low: dict[Expert, int] = {}
        """The slots of resident low slices, that of the longest unwanted one first."""
        self._free_low = deque(range(self.total_slots, self.total_slots + self.low_slots))
        self._members: list[Expert] = []

    @property
    def capacity_bytes(self) -> int:
        """Bytes of the slots of both kinds."""
        return self.total_slots * self.slices[0] + self.low_slots * self.slices[1]

    def level(self, expert: Expert) -> int:
        """Return the level at which the expert is resident or in flight."""
        return WHOLE if expert in self._low else HIGH if self.holds(expert) else ABSENT

    def request(self, access: Access, needs: Sequence[int | None] = ()) -> Iterator[Plan]:
        """Yield the plan of each wave of this visit: `ExpertCache.request`, with slices."""
        if self.deciding:
            self.reset()
        self._forget_bypassed()
        levels: Sequence[int] = [WHOLE] * len(access.experts)
        if access.phase == DECODE:
            levels = self.levels(access)
        wanted = dict(zip(access.experts, levels, strict=True))
        for plan in super().request(access):
            yield self._with_slices(plan, wanted)
            self._forget_bypassed()

    def _with_slices(self, plan: Plan, wanted: dict[int, int]) -> Plan:
        """Add to a wave the low slices that it computes with, and those that it loads."""
        self.deciding = True
        self._members = members = [*plan.hits, *(load.expert for load in plan.loads)]
        for gone in plan.evictions:
            if gone.expert not in members:
                self._drop_low(gone.expert)
        asked = [expert for expert in members if wanted[expert.index] == WHOLE]
        lacking = [expert for expert in asked if expert not in self._low]
        for expert in asked:
            slot = self._low.pop(expert, None)
            self._low[expert] = self._low_slot(members) if slot is None else slot
        fills = tuple([Load(e, self._low[e], span=self.spans[1]) for e in lacking])
        levels = [wanted[expert.index] for expert in members]
        self.deciding = False
        return plan._replace(
            loads=tuple([load._replace(span=self.spans[0]) for load in plan.loads]),
            dropped=self._spanned(plan.dropped),
            fills=fills,
            partial=tuple([expert for expert in plan.hits if expert in lacking]),
            low=tuple([(expert, self._low[expert]) for expert in members if expert in self._low]),
            wanted=sum([(0, self.slices[0], sum(self.slices))[level] for level in levels]),
        )

    def _low_slot(self, members: list[Expert]) -> int:
        """Return a free slot for a low slice; if there is none, the oldest low slice leaves."""
        if not self._free_low:
            self._drop_low(next(expert for expert in self._low if expert not in members))
        return self._free_low.popleft()

    def _drop_low(self, expert: Expert) -> None:
        slot = self._low.pop(expert, None)
        if slot is not None:
            self._free_low.append(slot)

    def _forget_bypassed(self) -> None:
        """Forget the low slices of the last wave's experts that were not kept."""
        for expert in self._members:
            if not self.holds(expert):
                self._drop_low(expert)
        self._members = []

    def _spanned(self, dropped: tuple[Eviction, ...]) -> tuple[Eviction, ...]:
        return tuple([eviction._replace(span=self.spans[0]) for eviction in dropped])

    def prefetch(self, predictions: Iterable[Prediction], clock: int) -> Plan:
        """Prefetch high slices as `ExpertCache.prefetch` does experts."""
        plan = super().prefetch(predictions, clock)
        loads = tuple([load._replace(rows=None, span=self.spans[0]) for load in plan.loads])
        return plan._replace(loads=loads)

    def admit(self, experts: Iterable[Expert], access: Access) -> Plan:
        """Load high slices in the background as `ExpertCache.admit` does experts."""
        plan = super().admit(experts, access)
        for gone in plan.evictions:
            self._drop_low(gone.expert)
        return plan._replace(
            loads=tuple([each._replace(span=self.spans[0]) for each in plan.loads])
        )

    def finish(self, clock: int) -> Plan:
        """End a run: prefetches that were never demanded count as wasted."""
        plan = super().finish(clock)
        return plan._replace(dropped=self._spanned(plan.dropped))


def divide(
    geometry: Geometry, slots: int, pool: str, staging: int, slices: tuple[int, int], whole: float
) -> tuple[int, int]:
    """Divide the bytes of whole experts: (high slices per layer, slots for low slices).

    As many high slices as leave room for the low slices of a share `whole` of them, and of all
    experts that one wave can compute; and as many low slices as the rest holds.

    Raises:
        ValueError: a share outside 0 to 1.
    """
    if not 0 <= whole <= 1:
        raise ValueError(
            f"miss.whole={whole}: expected the share of residents whose low slices have room, "
            "0 to 1; try miss.whole=0.5"
        )
    high, low = slices
    budget = (slots * geometry.layers + staging) * (high + low)
    for resident in range(geometry.experts, slots, -1):
        every = resident * geometry.layers
        rest = (budget - (every + staging) * high) // low
        if rest >= max(ceil(whole * every), _largest_wave(geometry, resident, pool, staging)):
            return resident, min(rest, every + staging)
    return slots, slots * geometry.layers + staging


def _largest_wave(geometry: Geometry, resident: int, pool: str, staging: int) -> int:
    """Return the most experts that one wave of a visit computes."""
    held = resident if pool == "layer" else resident * geometry.layers
    return min(geometry.experts, held + staging)
