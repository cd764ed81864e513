"""The settings that decide in a replay, from which every replay builds its own cache."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

from moex.cache.core import ExpertCache
from moex.cache.memory import Memory
from moex.decisions.rows import row_cache

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.cache.base import CachePolicy
    from moex.cache.memory import Needs
    from moex.cache.row_cache import RowCache
    from moex.hardware.profile import HardwareProfile
    from moex.prefetch.base import Prefetcher
    from moex.types import Access, Expert, Future, Geometry


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
    wrongly on any other. Here it is not bound: `build` binds it, and makes the cache, each time.

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
        self,
        geometry: Geometry,
        hardware: HardwareProfile | None = None,
        future: Future | None = None,
        needs: Needs | None = None,
    ) -> tuple[ExpertCache, RowCache | None]:
        """Return a fresh cache whose misses are handled as on this hardware, and that of its rows.

        Args:
            geometry: of the model or trace.
            hardware: the profile that a miss handler and the break-even of rows are taken from.
            future: the recorded visits, for a policy that needs them.
            needs: bytes beside experts, which a budget holds too.

        Raises:
            ValueError: settings that do not suit the geometry or the profile.
        """
        memory = self.memory
        cache = ExpertCache(
            self.policy,
            geometry,
            memory.resolve(geometry, needs),
            memory.pool,
            memory.staging,
            self.seed,
            future,
            self.miss.bound(geometry, hardware).split if self.miss else None,
        )
        if self.neurons:
            return cache, row_cache(cache, memory, hardware, self.store)
        memory.refuse_rows()
        return cache, None
