"""The state machine of residency: which expert is in which slot, which enter, which are evicted.

Runner and simulator execute its plans; neither takes a decision. Every load goes into a *slot*: a
resident's, or one of staging (the buffers of Eliseev & Mazur, shared by all layers), which becomes
a resident's if its expert is admitted. State changes when a plan is issued, never on arrival.

Replay is event-atomic: the whole demanded set is classified against the state at the start of the
visit, and no member of the running set is a victim unless the policy bypasses.

A visit may be abandoned after any of its plans: issued plans count as executed, no slot is lost.
After a policy raised an error during a visit, the next visit starts with an empty cache.
"""

from __future__ import annotations

from collections import deque
from statistics import mean
from typing import TYPE_CHECKING

from moex.cache.array_policy import ArrayPolicy
from moex.cache.base import CachePolicy, Forecast
from moex.cache.deferral import Deferral
from moex.cache.limits import check_capacity, check_future
from moex.cache.pool import Pool, pools
from moex.cache.residency import Residency
from moex.types import DECODE, Eviction, Expert, Future, Load, Now, Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from moex.types import Access, Geometry, Prediction


class ExpertCache(Residency):
    """Residency, slots, pools, waves and the admission of prefetches.

    Whoever executes plans calls `request` for every visit, `prefetch` after its last plan and
    `finish` at the end of a run. `RowCache` and `SliceCache` plan rows or slices of experts.

    Args:
        policy: the prototype; every pool gets a copy of its own.
        geometry: of the model or trace.
        slots: residents per layer, 0 or more, or a list with one number for each (with
            `pool="global"` the layers share `slots * layers`).
        pool: "layer" or "global".
        staging: slots beside the residents', shared by all layers; default `2 * top_k`.
        seed: for policies that use random numbers.
        future: the recorded visits, for policies that need them.
        split: handles the misses of a decoding visit (`MissHandler.split`); None fetches all.

    Raises:
        ValueError: a capacity that no model has, or a policy without what it needs.
    """

    selects: bool = False
    """Whether only selected neurons are computed, whatever is moved."""

    by_rows: bool = False
    """Whether experts are held and moved by rows (`RowCache`)."""

    slot_share: float = 1.0
    """The share of an expert that a slot holds."""

    low_slots: int = 0
    """Slots for low slices, beside the others (`SliceCache`); 0: experts are whole."""

    def __init__(
        self,
        policy: CachePolicy,
        geometry: Geometry,
        slots: int | Sequence[int],
        pool: str = "layer",
        staging: int | None = None,
        seed: int = 0,
        future: Future | None = None,
        split: Callable[[Access, list[Expert], int], Iterable[Sequence[Expert]]] | None = None,
    ) -> None:
        self.split = split
        self.prototype, self.geometry, self.pool = policy, geometry, pool
        self.staging = 2 * geometry.top_k if staging is None else staging
        forecast = "forecast" in policy.needs
        self.seed, self.future = seed, Forecast(geometry.layers) if forecast else future
        self.layer_slots = check_capacity(geometry, slots, self.staging, pool)
        self.slots = self.whole_slots = mean(self.layer_slots)
        check_future(policy, self.future)
        blind = CachePolicy.on_visit, ArrayPolicy.on_visit
        self.reads_scores = split is not None or type(policy).on_visit not in blind
        """Whether decisions may depend on the router row."""
        self.total_slots = sum(self.layer_slots) + self.staging
        self.capacity = geometry.intermediate  # rows of an expert in a slot
        layers, indices = range(geometry.layers), range(geometry.experts)
        self._names = [[Expert(layer, index) for index in indices] for layer in layers]
        self.reset()

    def reset(self) -> None:
        """Discard all state: empty slots, no prefetches, fresh policies."""
        if isinstance(self.future, Forecast):
            self.future.clear()
        self._pools = pools(
            self.prototype, self.layer_slots, self.pool, self.geometry, self.seed, self.future
        )
        # The slot freed longest ago is reused first: its reads and writes have ended.
        self._free = deque(range(self.total_slots))
        # Slots that the running wave still reads: free when the next wave or visit is requested.
        self._released: list[int] = []
        self._in_flight: dict[Expert, int] = {}
        self._deferral = Deferral()
        self.deciding = False

    def request(self, access: Access, needs: Sequence[int | None] = ()) -> Iterator[Plan]:
        """Yield the plan of each wave of this visit; the visit ends with the iterator.

        `needs` are the rows that each expert needs, where experts are held by rows (`RowCache`).

        There is one wave if all absent experts fit (always, when one token is decoded), else more;
        hits are in the first.
        """
        self._open(access.layer)
        clock, position, layer, phase, experts, _ = access
        now = Now(clock, position, layer, phase)
        pool, names = self._pools[layer], self._names[layer]
        demanded = [names[index] for index in experts]
        ordered = [names[index] for index in sorted(experts)]
        if pool.on_visit:
            pool.on_visit(access)
        if pool.on_access:
            for expert in demanded:
                pool.on_access(expert, now, expert in pool.residents)
        members = pool.set_aside(ordered)
        dropped = self._end_prefetches(layer, demanded) if self._in_flight else []
        due = self._deferral.due
        if len(members) == len(demanded):
            pool.residents.update(members)
            slots = tuple([members[expert] for expert in demanded])
            self._released = self._deferral.end([], []) if due else []
            self.deciding = False
            yield Plan(clock, tuple(demanded), slots, dropped=tuple(dropped), due=due)
            return
        at = members
        missing = [expert for expert in demanded if expert not in members]
        prefetched: list[Expert] = []
        if self._in_flight:
            prefetched = [expert for expert in missing if expert in self._in_flight]
            missing = [expert for expert in missing if expert not in prefetched]
            at = {**members, **{expert: self._in_flight[expert] for expert in prefetched}}
        missing, host, skipped, deferred = self._share_out(access, missing, pool, len(at))
        self._make_room(len(missing) + len(deferred), prefetched, dropped)
        if deferred and len(missing) + len(deferred) > len(self._free):
            missing, deferred = [*missing, *deferred], ()
        hits = [expert for expert in demanded if expert in at]
        while True:
            slots = tuple([at[expert] for expert in hits])
            wanted = [*missing, *deferred][: len(self._free)]
            loads = [Load(expert, self._free.popleft()) for expert in wanted]
            missing = missing[len(loads) :]
            entering = [load[:2] for load in loads]
            if prefetched:
                entering.extend([(e, self._in_flight.pop(e)) for e in prefetched])
                entering.sort(key=lambda pair: experts.index(pair[0].index))
            given = members, entering, now, self._free, self._deferral.pinned
            evictions, released = pool.admit_and_evict(*given)
            pool.put_back(members, ordered)
            later = loads[len(loads) - len(deferred) :]
            self._released = released if missing else self._deferral.end(later, released)
            self.deciding = False
            yield Plan(
                clock,
                tuple(hits),
                slots,
                tuple(loads),
                tuple(evictions),
                tuple(prefetched),
                tuple(dropped),
                tuple(host),
                tuple(skipped),
                last=not missing,
                deferred=tuple(deferred),
                due=() if missing else due,
            )
            self._release()
            if not missing:
                return
            assert self._free, "a wave has at least one slot to load into"
            self.deciding = True
            hits, prefetched, dropped, host, skipped, deferred = [], [], [], (), (), ()
            members = pool.set_aside(ordered)

    def _open(self, layer: int) -> None:
        """Begin a visit, even if the one before was abandoned or failed."""
        if self.deciding:
            self.reset()
        self.deciding = True
        self._free.extend(self._deferral.begin(layer))
        if self._released:
            self._release()

    def _share_out(
        self, access: Access, missing: list[Expert], pool: Pool, members: int
    ) -> tuple[list[Expert], Sequence[Expert], Sequence[Expert], Sequence[Expert]]:
        """Split a visit's misses: (fetched, computed on the host, skipped, deferred)."""
        if self.split is None or not missing or access.phase != DECODE:
            return missing, (), (), ()
        room = pool.capacity - len(pool.residents) - members
        fetch, host, skipped, *later = self.split(access, missing, max(0, room))
        deferred = later[0] if later else ()
        # The last layer has no next one; and that one needs a slot to load into.
        if access.layer + 1 == self.geometry.layers or len(deferred) >= self.staging:
            fetch, deferred = [*fetch, *deferred], ()
        return list(fetch), host, skipped, deferred

    def _end_prefetches(self, layer: int, demanded: list[Expert]) -> list[Eviction]:
        """Drop the prefetches for this layer that its visit does not demand."""
        flying = list(self._in_flight)
        return [self._drop(e) for e in flying if e.layer == layer and e not in demanded]

    def _make_room(self, wanted: int, kept: list[Expert], dropped: list[Eviction]) -> None:
        """Drop prefetches for other layers, latest first, until all demanded loads have slots."""
        for prefetch in list(reversed(self._in_flight)):
            if len(self._free) >= wanted:
                return
            if prefetch not in kept:
                dropped.append(self._drop(prefetch))

    def prefetch(self, predictions: Iterable[Prediction], clock: int) -> Plan:
        """Admit predictions, best first, to free staging slots; `top_k` are kept for demand."""
        room = self.staging - self.geometry.top_k - len(self._in_flight) - len(self._deferral.kept)
        loads: list[Load] = []
        for expert, _, rows in predictions:
            if room <= 0 or not self._free:
                break
            if expert in self._in_flight or expert in self._pools[expert.layer].residents:
                continue
            slot = self._in_flight[expert] = self._free.popleft()
            loads.append(Load(expert, slot, rows if self.by_rows else None, speculative=True))
            room -= 1
        return Plan(clock, loads=tuple(loads))
