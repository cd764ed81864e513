"""The settings that decide a replay, from which every replay builds its own cache."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from moex.cache.core import ExpertCache
from moex.cache.memory import Memory
from moex.cache.variants.row_cache import RowCache
from moex.cache.variants.slice_cache import SliceCache
from moex.cache.variants.tiers import HostTier, TieredCache, host_policy
from moex.decisions.governor import Governor, least_precision
from moex.decisions.rerouter import refuse_oracles
from moex.decisions.rows import moves_rows, row_settings
from moex.decisions.together import check_together
from moex.miss.base import SliceHandler
from moex.prefetch.base import check_forecast

if TYPE_CHECKING:
    from moex.cache.base import CachePolicy
    from moex.cache.memory import Needs
    from moex.hardware.profile import HardwareProfile
    from moex.miss.base import MissHandler
    from moex.prefetch.base import Prefetcher
    from moex.routing.base import RoutingPolicy
    from moex.types import Future, Geometry


@dataclass(frozen=True)
class Decisions:
    """The settings that decide which experts are loaded, evicted, deferred, skipped and so on.

    A miss handler takes constants from the hardware profile, so one bound to a profile is wrong for
    any other. Here it is not bound: `build` binds it, and makes the cache, each time.

    Args:
        policy: which expert is evicted.
        memory: how many experts the device holds.
        prefetcher: default none.
        miss: handler of absent experts, not bound to a profile; default: fetch them.
        seed: for everything that is random.
        neurons: the share of an expert's rows that a token selects, 0 if it varies; None: all rows
            are computed.
        store: where the master copies are ("ram" or "disk"), for the break-even of rows.
        governor: whether prefetching is paused while too few prefetches are used.
        overlaps: whether the link copies while the device computes (`Link.overlaps`); that of a
            timed profile does.
        routing: which experts a token asks for; default: those that the router chose.
        slices: bytes of the slices of an expert's record; for a miss handler that asks for slices.

    Raises:
        ValueError: an oracle beside a routing policy that depends on residency.
    """

    policy: CachePolicy
    memory: Memory = field(default_factory=Memory)
    prefetcher: Prefetcher | None = None
    miss: MissHandler | None = None
    seed: int = 0
    neurons: float | None = None
    store: str = "ram"
    governor: bool = False
    overlaps: bool = True
    routing: RoutingPolicy | None = None
    slices: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        refuse_oracles(self.routing, self.policy, self.prefetcher)
        check_forecast(self.policy, self.prefetcher)

    @property
    def routes_by_residency(self) -> bool:
        """Whether what is demanded depends on what is resident."""
        return self.routing is not None and self.routing.residency_dependent

    def moves_rows(self, hardware: HardwareProfile | None = None) -> bool:
        """Whether rows of experts are moved, not whole ones."""
        return moves_rows(self.memory, hardware, self.store, self.neurons)

    def build(
        self,
        geometry: Geometry,
        hardware: HardwareProfile | None = None,
        future: Future | None = None,
        needs: Needs | None = None,
        loads: Future | None = None,
    ) -> ExpertCache:
        """Return a fresh cache, with misses handled for this hardware.

        Args:
            geometry: of the model or trace.
            hardware: the profile that a miss handler and the break-even of rows are taken from.
            future: the recorded visits, for a policy that needs them.
            needs: bytes besides experts, which the budget must hold, too.
            loads: when the device loads what (`tiers.load_future`), for a policy of the host tier
                that needs it.

        Raises:
            ValueError: settings that do not suit each other, the geometry or the profile.
        """
        memory = self.memory
        miss = self.miss.bound(geometry, hardware) if self.miss else None
        given = (
            self.policy,
            geometry,
            memory.resolve(geometry, needs),
            memory.pool,
            memory.staging,
            self.seed,
            future,
            None if miss is None or miss.fetches_all else miss.split,
        )
        check_together(self)
        if isinstance(miss, SliceHandler):
            high, low = self.slices
            return SliceCache(*given, slices=(high, low), levels=miss.levels, whole=miss.whole)
        if memory.host is not None:
            return TieredCache(*given, host=self._host_tier(geometry, loads))
        if self.moves_rows(hardware):
            return RowCache(*given, **row_settings(memory, geometry, hardware, self.store))
        cache = ExpertCache(*given)
        cache.selects = self.neurons is not None
        if not cache.selects:
            memory.refuse_rows()
        return cache

    @property
    def needs_future_loads(self) -> bool:
        """Whether the host tier's policy needs the future of the device's loads."""
        return self.memory.host is not None and (
            "future" in host_policy(self.memory.host_policy).needs
        )

    @property
    def untiered(self) -> Decisions:
        """The same decisions without a host tier: those of the device are the same."""
        return replace(self, memory=replace(self.memory, host=None))

    def _host_tier(self, geometry: Geometry, loads: Future | None) -> HostTier:
        memory = self.memory
        memory.refuse_rows()
        chosen = host_policy(memory.host_policy), geometry, memory.host_residents(geometry)
        return HostTier(*chosen, memory.slots_beside(geometry), memory.tiers, self.seed, loads)

    def make_governor(
        self, geometry: Geometry, hardware: HardwareProfile | None = None
    ) -> Governor:
        """Return a fresh governor of the prefetcher, for the link of this hardware.

        What `prefetch=recorded` repeats was governed when it was recorded. A prefetcher that the
        eviction policy asks, too, is never paused.
        """
        recorded = self.prefetcher is not None and "recorded" in self.prefetcher.needs
        if not self.governor or recorded or "forecast" in self.policy.needs:
            return Governor()
        return Governor(least_precision(geometry, hardware, self.overlaps))
