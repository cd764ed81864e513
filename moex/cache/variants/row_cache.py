"""The cache of rows: which neurons of an expert are in its slot, and which must be loaded.

Which experts have a slot is decided exactly as it is without neurons. A slot holds
`capacity` rows of its expert: all of them, or fewer (thin slots), of which the last used are kept.
An expert that needs more rows than its slot holds is computed in parts, one wave for each.

Bitmaps are Python integers here (bit j is neuron j) and bytes in plans. No tensors: the simulator
uses the same class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moex.cache.core import ExpertCache
from moex.cache.variants.resident_rows import ResidentRows, bitmap, lowest
from moex.types import Eviction, Expert, Load, Plan

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from moex.types import Access, Prediction


class RowCache(ExpertCache):
    """An `ExpertCache` whose plans name rows; its arguments, and some of its own.

    Args:
        rows: the share of an expert's rows that a slot holds; 1 for all.
        break_even: from this share of an expert's rows on, the whole expert is moved instead
            (1 with thin slots).
        hot: bitmaps of rows that a thin slot evicts last, by expert; at most half a slot of them.

    Raises:
        ValueError: a share outside (0, 1].
    """

    selects = by_rows = True

    def __init__(
        self,
        *given: Any,
        rows: float = 1.0,
        break_even: float = 1.0,
        hot: dict[Expert, int] | None = None,
        **named: Any,
    ) -> None:
        for name, share in (("rows", rows), ("break_even", break_even)):
            if not 0 < share <= 1:
                raise ValueError(f"memory.{name}={share}: expected a share in (0, 1]")
        super().__init__(*given, **named)
        width = self.geometry.intermediate
        self.full, self.bytes = (1 << width) - 1, -(-width // 8)
        self.share, self.capacity = rows, rows_in_slot(rows, width)
        self.slot_share, self.thin = self.capacity / width, self.capacity < width
        # A thin slot has no room for a whole expert, so only rows are moved there.
        self.break_even = 1.0 if self.thin else break_even
        self.threshold = self.break_even * width
        self.hot = {e: lowest(r, self.capacity // 2) for e, r in (hot or {}).items()}

    def reset(self) -> None:
        """Discard all state."""
        super().reset()
        self._running: tuple[tuple[Expert, int], ...] = ()
        """The experts, and their rows, that the wave last planned computes."""
        self._members: list[Expert] = []
        self._held: dict[Expert, ResidentRows] = {}
        self._early: dict[Expert, int] = {}

    def held(self, expert: Expert) -> int:
        """Return the rows that are in the expert's slot, or being loaded to it."""
        return self._held[expert].rows if expert in self._held else 0

    def request(self, access: Access, needs: Sequence[int | None] = ()) -> Iterator[Plan]:
        """Yield the plan of each wave of this visit: `ExpertCache.request`, with rows.

        Args:
            access: the visit.
            needs: the bitmap of rows that each of its experts needs (an empty one counts as one
                row); None for all rows.
        """
        if self.deciding:
            self.reset()
        self._forget_bypassed()
        wanted = {
            Expert(access.layer, index): self.full if rows is None else rows or 1
            for index, rows in zip(access.experts, needs, strict=True)
        }
        first = True
        for plan in super().request(access):
            dropped = tuple([self._dropped(eviction) for eviction in plan.dropped])
            unused = self._unused(access.layer, wanted) if first else ()
            first = False
            if dropped or unused:
                plan = plan._replace(dropped=dropped, unused=unused)
            yield from self._waves(plan, wanted)
            self._forget_bypassed()

    def _waves(self, plan: Plan, wanted: dict[Expert, int]) -> Iterator[Plan]:
        """Split a wave of experts into waves in which each part fits its expert's slot."""
        self.deciding = True
        self._members = members = [*plan.hits, *(load.expert for load in plan.loads)]
        evicted = [each.expert for each in plan.evictions if each.expert not in members]
        plan = plan._replace(unused=plan.unused + self._lost(evicted))
        slots = {load.expert: load.slot for load in plan.loads}
        for expert in slots:
            self._held[expert] = ResidentRows()
        slots = dict(zip(plan.hits, plan.slots, strict=True)) | slots
        parts = {expert: self._parts(expert, wanted[expert]) for expert in members}
        waves = max(len(each) for each in parts.values())
        absent = {load.expert for load in plan.loads}
        for number in range(waves):
            plan = Plan(plan.clock, last=plan.last) if number else plan
            running = [(e, each[number]) for e, each in parts.items() if number < len(each)]
            moved = [self._take(expert, slots[expert], part) for expert, part in running]
            loads = tuple([load for load in moved if load and load.expert in absent])
            fills = tuple([load for load in moved if load and load.expert not in absent])
            absent = set()  # what a later wave moves fills up
            self._running, lacking = tuple(running), {fill.expert for fill in fills}
            self.deciding = False
            yield plan._replace(
                loads=loads,
                fills=fills,
                partial=tuple([e for e in plan.hits if e in lacking or len(parts[e]) > 1]),
                last=plan.last and number == waves - 1,
                computed=self._running,
                held=self._held_by(loads + fills),
            )

    def _lost(self, evicted: list[Expert]) -> tuple[Eviction, ...]:
        """Forget evicted experts' rows; return those prefetched for visits still to come."""
        for expert in evicted:
            self._held.pop(expert, None)
        lost = [(expert, self._early.pop(expert, 0)) for expert in evicted]
        return tuple([Eviction(expert, -1, self._bytes(rows)) for expert, rows in lost if rows])

    def _held_by(self, transfers: tuple[Load, ...]) -> tuple[int, ...]:
        """Return what thin slots hold; in a larger one, every row has a position of its own."""
        return tuple([self.held(load.expert) for load in transfers]) if self.thin else ()

    def _forget_bypassed(self) -> None:
        """Forget the rows of the last wave's experts that were not kept."""
        for expert in self._members:
            if not self.holds(expert):
                self._held.pop(expert, None)
        self._members = []

    def _parts(self, expert: Expert, rows: int) -> list[int]:
        """Split rows into parts that fit the slot: resident ones first, kept ones last."""
        if rows.bit_count() <= self.capacity:
            return [rows]
        hot = self.hot.get(expert, 0)
        present = rows & self.held(expert)
        parts = [present] if present else []
        rest = rows & ~present
        while rest:
            parts.append(lowest(rest, self.capacity - hot.bit_count()))
            rest &= ~parts[-1]
        return parts

    def _take(self, expert: Expert, slot: int, part: int, speculative: bool = False) -> Load | None:
        """Use a part of an expert's rows; return the load of those that are missing."""
        held = self._held[expert]
        if self.thin:
            missing, whole = held.take(part, self.capacity, self.hot.get(expert, 0)), False
        else:
            before = held.rows
            missing = part & ~before
            whole = missing.bit_count() >= self.threshold
            held.rows = self.full if whole else before | part
        if not missing:
            return None
        rows = None if whole else missing.to_bytes(self.bytes, "little")
        return Load(expert, slot, rows, speculative)

    def prefetch(self, predictions: Iterable[Prediction], clock: int) -> Plan:
        """Prefetch experts as `ExpertCache.prefetch` does, and missing rows of resident ones.

        For the latter only the first `staging - top_k` predictions count. A whole expert predicted
        for a thin slot gets as many rows as the slot holds, hot ones first.
        """
        predictions = [p for p in predictions if p.rows is None or bitmap(p.rows)]
        plan = super().prefetch(predictions, clock)
        loads = []
        for load in plan.loads:
            self._held[load.expert] = ResidentRows()
            fitting = self._fitting(load.expert, load.rows)
            loads.append(self._prefetch_rows(load.expert, load.slot, fitting))
        spare = self.staging - self.geometry.top_k
        # The rows of experts that the running wave computes must not change.
        apart = {load.expert for load in plan.loads} | {expert for expert, _ in self._running}
        fills = []
        for expert, _, rows in predictions[: max(0, spare)]:
            if rows is not None and expert in self._held and expert not in apart:
                apart.add(expert)
                fitting = self._fitting(expert, rows)
                fills.append(self._prefetch_rows(expert, self.slot_of(expert), fitting))
        moved = tuple(load for load in loads if load), tuple(fill for fill in fills if fill)
        return plan._replace(loads=moved[0], fills=moved[1], held=self._held_by(sum(moved, ())))

    def admit(self, experts: Iterable[Expert], access: Access) -> Plan:
        """Load experts as `ExpertCache.admit` does: as many rows as fit, hot ones first."""
        plan = super().admit(experts, access)
        unused = self._lost([eviction.expert for eviction in plan.evictions])
        self._held |= {load.expert: ResidentRows() for load in plan.loads}
        parts = [(*load[:2], self._fitting(load.expert, None), True) for load in plan.loads]
        moved = tuple([load for load in (self._take(*part) for part in parts) if load])
        return plan._replace(loads=moved, unused=unused, held=self._held_by(moved))

    def _fitting(self, expert: Expert, rows: bytes | None) -> int:
        wanted = self.full if rows is None else bitmap(rows)
        hot = wanted & self.hot.get(expert, 0)
        return hot | lowest(wanted & ~hot, self.capacity - hot.bit_count())

    def _prefetch_rows(self, expert: Expert, slot: int, rows: int) -> Load | None:
        before = self.held(expert)
        load = self._take(expert, slot, rows, speculative=True)
        if load is not None:
            self._early[expert] = self._early.get(expert, 0) | (self.held(expert) & ~before)
        return load

    def _dropped(self, eviction: Eviction) -> Eviction:
        self._held.pop(eviction.expert, None)
        return eviction._replace(rows=self._bytes(self._early.pop(eviction.expert, self.full)))

    def _unused(self, layer: int, wanted: dict[Expert, int]) -> tuple[Eviction, ...]:
        """Return the rows that were prefetched for this visit and are not used by it."""
        found = []
        for expert in [e for e in self._early if e.layer == layer]:
            rows = self._early.pop(expert) & ~wanted.get(expert, 0)
            if rows:
                found.append(Eviction(expert, -1, self._bytes(rows)))
        return tuple(found)

    def _bytes(self, rows: int) -> bytes | None:
        return None if rows == self.full else rows.to_bytes(self.bytes, "little")

    def finish(self, clock: int) -> Plan:
        """End a run: prefetched experts and rows that were never demanded count as wasted."""
        plan = super().finish(clock)
        dropped = tuple(self._dropped(eviction) for eviction in plan.dropped)
        unused = [self._unused(layer, {}) for layer in range(self.geometry.layers)]
        return plan._replace(dropped=dropped, unused=sum(unused, ()))


def rows_in_slot(share: float, width: int) -> int:
    """Return how many of `width` rows a slot of this share holds."""
    return max(1, int(share * width + 1e-9))
