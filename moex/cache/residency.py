"""Which expert is in which slot, whatever put it there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.cache.base import Forecast
from moex.types import Eviction, Load, Now, Plan

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Iterable, Sequence

    from moex.cache.deferral import Deferral
    from moex.cache.pool import Pool
    from moex.types import Access, Expert, Future, Geometry, Prediction


class Residency:
    """The slots of an `ExpertCache` and who holds them, between two visits."""

    geometry: Geometry
    total_slots: int
    slot_share: float
    future: Future | None
    deciding: bool
    """Whether a decision is under way; True between calls means that it raised an error."""

    _names: list[list[Expert]]
    _pools: list[Pool]
    _free: deque[int]
    _released: list[int]
    _in_flight: dict[Expert, int]
    _deferral: Deferral

    def slot_of(self, expert: Expert) -> int:
        """Return the slot of a resident or prefetched expert (KeyError if neither)."""
        residents = self._pools[expert.layer].residents
        return residents[expert] if expert in residents else self._in_flight[expert]

    def holds(self, expert: Expert) -> bool:
        """Whether the expert is resident or prefetched."""
        return expert in self._pools[expert.layer].residents or expert in self._in_flight

    def residents(self, layer: int) -> list[Expert]:
        """Return the experts in the layer's pool, oldest last use first."""
        return list(self._pools[layer].residents)

    @property
    def capacity_bytes(self) -> int:
        """Bytes of all slots."""
        return int(self.total_slots * self.geometry.expert_bytes * self.slot_share)

    def occupancy(self) -> tuple[int, int]:
        """Return the number of slots held by residents, and by prefetches."""
        prefetches, others = len(self._in_flight), [*self._free, *self._released]
        kept = len(others) + len(self._deferral.kept)
        return self.total_slots - kept - prefetches, prefetches

    def admit(self, experts: Iterable[Expert], access: Access) -> Plan:
        """Load experts of a layer that its visit did not demand, if the policy admits them.

        Called after the visit's last plan. No member of the visit is a victim.
        """
        self.deciding = True
        clock, position, layer, phase, demanded, _ = access
        now, ordered = Now(clock, position, layer, phase), sorted(demanded)
        running = [self._names[layer][index] for index in ordered]
        wanted = [expert for expert in experts if not self.holds(expert)]
        given = running, now, self._free, self._deferral.pinned
        entered, evictions = self._pools[layer].admit_absent(wanted, *given)
        self.deciding = False
        loads = [Load(*each, speculative=True) for each in entered.items()]
        return Plan(clock, loads=tuple(loads), evictions=tuple(evictions))

    def forecast(self, predictions: Sequence[Prediction], access: Access) -> None:
        """Let policies that need it know what is predicted during a visit."""
        if isinstance(self.future, Forecast):
            self.future.update(predictions, access)

    def finish(self, clock: int) -> Plan:
        """End a run: drop the prefetches that were never demanded."""
        self._free.extend(self._deferral.clear())
        return Plan(clock, dropped=tuple(self._drop(expert) for expert in list(self._in_flight)))

    def _drop(self, prefetch: Expert) -> Eviction:
        slot = self._in_flight.pop(prefetch)
        self._free.append(slot)
        return Eviction(prefetch, slot)

    def _release(self) -> None:
        """Free the slots that only the previous wave read."""
        self._free.extend(self._released)
        self._released = []
