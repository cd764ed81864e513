"""The books of rows: which neurons of an expert are in its place, and which must be loaded.

`ExpertCache` decides who has a place, exactly as it does without neurons. A place holds `capacity`
rows of its expert: all of them, or fewer (thin places), of which the last used ones stay. An expert
of which more rows are needed than its place holds goes through it in parts, a wave for each.

Bitmaps are Python integers here (bit j is neuron j) and bytes in plans. No tensors: the simulator
keeps the same books.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from moex.cache.resident_rows import ResidentRows, bitmap, lowest
from moex.types import Eviction, Expert, Load, Plan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from moex.cache.core import ExpertCache
    from moex.types import Access, Prediction


class RowCache:
    """The books of rows over those of experts; the same calls, and plans with rows in them.

    Args:
        cache: decides who has a place.
        rows: of an expert's rows, the share that a place holds; 1 for all.
        break_even: from this share of an expert's rows on, the whole expert is moved instead
            (1 with thin places).
        hot: bitmaps of rows that leave a thin place last, by expert; at most half a place of them.

    Raises:
        ValueError: a share outside (0, 1].
    """

    def __init__(
        self,
        cache: ExpertCache,
        rows: float = 1.0,
        break_even: float = 1.0,
        hot: dict[Expert, int] | None = None,
    ) -> None:
        for name, share in (("rows", rows), ("break_even", break_even)):
            if not 0 < share <= 1:
                raise ValueError(f"memory.{name}={share}: expected a share in (0, 1]")
        width = cache.geometry.intermediate
        self.cache, self.full, self.bytes = cache, (1 << width) - 1, -(-width // 8)
        self.share, self.capacity = rows, max(1, int(rows * width + 1e-9))
        self.thin = self.capacity < width
        # A thin place has no room for all of an expert, so nothing but rows is moved there.
        self.break_even = 1.0 if self.thin else break_even
        self.threshold = self.break_even * width
        self.hot = {e: lowest(r, self.capacity // 2) for e, r in (hot or {}).items()}
        self.parts: dict[Expert, int]
        """The rows of each expert that the wave last planned computes."""
        self.reset()

    def over(self, cache: ExpertCache) -> RowCache:
        """The same books, empty, over another cache."""
        twin = copy(self)
        twin.cache = cache
        twin.reset()
        return twin

    def reset(self) -> None:
        """Forget everything."""
        self.parts = {}
        self._members: list[Expert] = []
        self._deciding = False
        self.cache.reset()
        self._held: dict[Expert, ResidentRows] = {}
        self._early: dict[Expert, int] = {}

    def held(self, expert: Expert) -> int:
        """The rows that are in the expert's place, or on their way there."""
        return self._held[expert].rows if expert in self._held else 0

    def request(self, access: Access, needs: Sequence[int | None]) -> Iterator[Plan]:
        """Yield what each wave of this visit needs: `ExpertCache.request`, with rows.

        Args:
            access: the visit.
            needs: the bitmap of rows that each of its experts needs (none is taken for one); None
                for all.
        """
        if self._deciding or self.cache.deciding:
            self.reset()
        self._forget_bypassed()
        wanted = {
            Expert(access.layer, index): self.full if rows is None else rows or 1
            for index, rows in zip(access.experts, needs, strict=True)
        }
        first = True
        for plan in self.cache.request(access):
            gone = [self._dropped(left) for left in plan.dropped]
            unused = self._unused(access.layer, wanted) if first else ()
            first = False
            yield from self._waves(plan._replace(dropped=tuple(gone), unused=unused), wanted)
            self._forget_bypassed()

    def _waves(self, plan: Plan, wanted: dict[Expert, int]) -> Iterator[Plan]:
        """Split a wave of experts into waves in which each has a part that fits its place."""
        self._deciding = True
        self._members = members = [*plan.hits, *(load.expert for load in plan.loads)]
        gone = [left.expert for left in plan.evictions if left.expert not in members]
        for expert in gone:
            self._held.pop(expert, None)
        # In a pool of all layers one may leave before the visit that its rows came early for.
        lost = [(expert, self._early.pop(expert, 0)) for expert in gone]
        vain = tuple(Eviction(expert, -1, self._bytes(rows)) for expert, rows in lost if rows)
        if vain:
            plan = plan._replace(unused=plan.unused + vain)
        slots = {load.expert: load.slot for load in plan.loads}
        for expert in slots:
            self._held[expert] = ResidentRows()
        slots = dict(zip(plan.hits, plan.slots, strict=True)) | slots
        parts = {expert: self._parts(expert, wanted[expert]) for expert in members}
        waves = max(len(each) for each in parts.values())
        for number in range(waves):
            self.parts = {e: each[number] for e, each in parts.items() if number < len(each)}
            moved = [self._take(expert, slots[expert], part) for expert, part in self.parts.items()]
            loads = [load for load in moved if load is not None]
            last = plan.last and number == waves - 1
            self._deciding = False
            if number:
                yield Plan(plan.clock, fills=tuple(loads), last=last)
                continue
            absent = {load.expert for load in plan.loads}
            fills = tuple(load for load in loads if load.expert not in absent)
            lacking = {fill.expert for fill in fills}
            yield plan._replace(
                loads=tuple(load for load in loads if load.expert in absent),
                fills=fills,
                partial=tuple(e for e in plan.hits if e in lacking or len(parts[e]) > 1),
                last=last,
            )

    def _forget_bypassed(self) -> None:
        """Of a wave that is over, forget the rows of those that were not kept."""
        for expert in self._members:
            if not self.cache.holds(expert):
                self._held.pop(expert, None)
        self._members = []

    def _parts(self, expert: Expert, rows: int) -> list[int]:
        """Rows that pass through a place together: what is there first, what stays there last."""
        if rows.bit_count() <= self.capacity:
            return [rows]
        hot = self.hot.get(expert, 0)
        there = rows & self.held(expert)
        parts = [there] if there else []
        rest = rows & ~there
        while rest:
            parts.append(lowest(rest, self.capacity - hot.bit_count()))
            rest &= ~parts[-1]
        return parts

    def _take(self, expert: Expert, slot: int, part: int, speculative: bool = False) -> Load | None:
        """Book a part as used; the load of what is missing of it."""
        held = self._held[expert]
        if self.thin:
            missing, whole = held.take(part, self.capacity, self.hot.get(expert, 0)), False
        else:
            before = held.rows
            missing = part & ~before
            whole = missing.bit_count() >= self.threshold
            held.recent = [self.full if whole else before | part]
        if not missing:
            return None
        rows = None if whole else missing.to_bytes(self.bytes, "little")
        return Load(expert, slot, rows, speculative)

    def prefetch(self, predictions: Sequence[Prediction], clock: int) -> Plan:
        """Admit guesses as `ExpertCache.prefetch` does, and fill up those predicted that are there.

        For the latter only the first `staging - top_k` predictions count. A guess of a whole expert
        in a thin place is of as many rows as it holds, hot ones first.
        """
        predictions = [p for p in predictions if p.rows is None or bitmap(p.rows)]
        plan = self.cache.prefetch(predictions, clock)
        loads = []
        for load in plan.loads:
            self._held[load.expert] = ResidentRows()
            fitting = self._fitting(load.expert, load.rows)
            loads.append(self._prefetch_rows(load.expert, load.slot, fitting))
        spare = self.cache.staging - self.cache.geometry.top_k
        # What the running wave computes stays as it is.
        apart = {load.expert for load in plan.loads} | set(self.parts)
        fills = []
        for expert, _, rows in predictions[: max(0, spare)]:
            if rows is not None and expert in self._held and expert not in apart:
                apart.add(expert)
                fitting = self._fitting(expert, rows)
                fills.append(self._prefetch_rows(expert, self.cache.slot_of(expert), fitting))
        return plan._replace(
            loads=tuple(load for load in loads if load), fills=tuple(fill for fill in fills if fill)
        )

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

    def _dropped(self, left: Eviction) -> Eviction:
        self._held.pop(left.expert, None)
        return left._replace(rows=self._bytes(self._early.pop(left.expert, self.full)))

    def _unused(self, layer: int, wanted: dict[Expert, int]) -> tuple[Eviction, ...]:
        """What came early for this visit, and is not used."""
        found = []
        for expert in [e for e in self._early if e.layer == layer]:
            rows = self._early.pop(expert) & ~wanted.get(expert, 0)
            if rows:
                found.append(Eviction(expert, -1, self._bytes(rows)))
        return tuple(found)

    def _bytes(self, rows: int) -> bytes | None:
        return None if rows == self.full else rows.to_bytes(self.bytes, "little")

    def finish(self, clock: int) -> Plan:
        """End a run: guesses and rows whose visit never came are wasted."""
        plan = self.cache.finish(clock)
        dropped = tuple(self._dropped(left) for left in plan.dropped)
        unused = [self._unused(layer, {}) for layer in range(self.cache.geometry.layers)]
        return plan._replace(dropped=dropped, unused=sum(unused, ()))
