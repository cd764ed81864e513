"""The settings that decide in a replay, from which every replay builds its own cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

from moex.cache.capacity import Memory
from moex.cache.core import ExpertCache
from moex.sim.rows import row_cache
from moex.sim.simulator import simulate
from moex.sim.time_bound import decode_lower_bound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from moex.cache.base import CachePolicy
    from moex.cache.rows import RowCache
    from moex.prefetch.base import Prefetcher
    from moex.report import Report
    from moex.sim.hardware import HardwareProfile
    from moex.trace.format import Trace
    from moex.types import Access, Expert, Geometry, Plan


class Handler(Protocol):
    """A `moex.miss.base.MissHandler`, which lies above this layer."""

    lossy: ClassVar[bool]
    on_host: ClassVar[bool]

    def bound(self, geometry: Geometry, hardware: HardwareProfile | None) -> Self:
        """Return the handler with the constants that it takes from the profile."""

    def split(
        self, access: Access, missing: Sequence[Expert], room: int
    ) -> tuple[Sequence[Expert], Sequence[Expert], Sequence[Expert]]:
        """Return which missing experts are fetched, computed on the host, skipped."""


@dataclass(frozen=True)
class Decisions:
    """The settings that decide which experts are loaded, evicted, computed on the host, skipped.

    A miss handler takes constants from the hardware profile, so one bound to a profile decides
    wrongly on any other. Here it is not bound: `replay` binds it, and builds the cache, each time.

    Args:
        policy: which expert is evicted.
        memory: how many experts the device holds; a budget counts experts only.
        prefetcher: default none.
        miss: what is done about absent experts, not bound to a profile; default: fetch them.
        seed: for everything that is random.
        neurons: whether only the rows are moved that the recorded run selected.
        store: where the master copies lie ("ram" or "disk"), for the break-even of rows.
    """

    policy: CachePolicy
    memory: Memory = field(default_factory=Memory)
    prefetcher: Prefetcher | None = None
    miss: Handler | None = None
    seed: int = 0
    neurons: bool = False
    store: str = "ram"

    def build(
        self, trace: Trace, hardware: HardwareProfile | None
    ) -> tuple[ExpertCache, RowCache | None]:
        """Return a fresh cache whose misses are handled as on this hardware, and that of its rows.

        Raises:
            ValueError: settings that do not suit the trace or the profile.
        """
        memory, geometry = self.memory, trace.geometry
        cache = ExpertCache(
            self.policy,
            geometry,
            memory.resolve(geometry),
            memory.pool,
            memory.staging,
            self.seed,
            trace.future() if "future" in self.policy.needs else None,
            self.miss.bound(geometry, hardware).split if self.miss else None,
        )
        if self.neurons:
            return cache, row_cache(cache, memory, hardware, self.store)
        memory.refuse_rows()
        return cache, None

    def replay(
        self,
        trace: Trace,
        hardware: HardwareProfile | None = None,
        cold: bool = False,
        on_plan: Callable[[Plan], None] | None = None,
        clock: HardwareProfile | None = None,
    ) -> Report:
        """Replay a trace and return its row.

        Args:
            trace: the recorded routing.
            hardware: the profile that decisions are made for.
            cold: whether every sequence starts with an empty cache.
            on_plan: called with every plan.
            clock: the profile that times are computed with; default `hardware`.
        """
        cache, rows = self.build(trace, hardware)
        report = simulate(
            trace, cache, self.prefetcher, clock or hardware, cold, on_plan, neurons=rows
        )
        if self.miss is not None and self.miss.lossy:
            report.lossy.append("miss")
        if rows is not None:
            report.lossy.append("sparsity")
            report.rows, report.break_even = rows.share, rows.break_even
        return report

    def decode_lower_bound_s(
        self, trace: Trace, hardware: HardwareProfile | None, cold: bool = False
    ) -> float | None:
        """Return seconds that no policy and no prefetcher can decode the trace below.

        None where it is not known: without a timed profile, where rows are moved, and with a miss
        handler that computes on the host or skips.
        """
        fetches = self.miss is None or not (self.miss.on_host or self.miss.lossy)
        if hardware is None or not hardware.timed or self.neurons or not fetches:
            return None
        memory = self.memory
        slots = memory.resolve(trace.geometry)
        return decode_lower_bound(trace, hardware, slots, memory.pool, memory.staging, cold)
