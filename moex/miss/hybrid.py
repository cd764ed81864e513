"""Some misses are fetched while the host computes the others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from moex.miss.base import MissHandler, Split

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.hardware.profile import HardwareProfile
    from moex.types import Access, Expert, Geometry


@dataclass
class Hybrid(MissHandler):
    """Split a visit's misses between link and host so that both finish earliest.

    Of n misses, f are fetched: the f of least `max(f * load_s, (n - f) * host_s) - f * worth_s`,
    the largest where several are. The balance is that of Zhong et al. 2025 (HybriMoE), arXiv
    2504.05897; `worth_s` is added here: a fetched expert becomes resident and saves later misses,
    one computed on the host does not. All three are constants (`load_s` and `host_s` null: the
    hardware profile's), so a run and its replay decide alike. -inf computes every miss on the host
    once the slots are full, inf fetches every miss; `moex.sim.worth` calibrates it.

    Args:
        load_s: seconds of fetching one expert.
        host_s: seconds of computing one expert on the host for one token.
        worth_s: seconds that a fetched expert saves later.
    """

    on_host: ClassVar[bool] = True

    load_s: float | None = None
    host_s: float | None = None
    worth_s: float = 0.0

    def bound(self, geometry: Geometry, hardware: HardwareProfile | None) -> Self:
        """Take constants that are null from the profile."""
        load_s, host_s = self.load_s, self.host_s
        if load_s is None and hardware is not None and hardware.link_bytes_per_s is not None:
            load_s = hardware.link_latency_s + geometry.expert_bytes / hardware.link_bytes_per_s
        if host_s is None and hardware is not None:
            host_s = hardware.host_seconds(geometry.expert_bytes)
        if load_s is None or host_s is None:
            name, example = ("load_s", 4e-3) if load_s is None else ("host_s", 2e-3)
            raise ValueError(
                f"miss.{name}=null: miss=hybrid splits misses by constants, and the hardware "
                f"profile has no value for this one; try miss.{name}={example}, or a profile of "
                "mode=calibrate"
            )
        return replace(self, load_s=load_s, host_s=host_s)

    def split(self, access: Access, missing: Sequence[Expert], room: int) -> Split:
        """Fetch the best number of them, first in top-k order; compute the others."""
        assert self.load_s is not None
        assert self.host_s is not None
        count, load_s, host_s, worth_s = len(missing), self.load_s, self.host_s, self.worth_s

        def cost(fetched: int) -> float:
            gain = fetched * worth_s if fetched else 0.0  # 0 * inf is not a number
            return max(fetched * load_s, (count - fetched) * host_s) - gain

        least = min(room, count)
        fetched = min(range(count, least - 1, -1), key=cost)
        return Split(missing[:fetched], missing[fetched:])
