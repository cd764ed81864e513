"""The profile of a machine: its link and its compute costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

COSTS = (
    "visit_s",
    "expert_s",
    "pass_s",
    "submit_s",
    "handover_s",
    "load_s",
    "predict_s",
    "select_s",
)
"""Fields of a profile that are seconds of computing on the device."""


@dataclass(frozen=True)
class HardwareProfile:
    """Figures of one machine; a live run emulates the link, a simulation models everything.

    Args:
        name: as in the result row.
        link_bytes_per_s: bandwidth of the link that experts cross; None: the real link is used.
        link_latency_s: latency of every transfer.
        chunk_bytes: demand overtakes prefetches at this granularity.
        visit_s: a layer visit without its experts (attention, norms, router, bookkeeping).
        expert_s: computing one expert for one token.
        pass_s: a forward pass without its layers (embedding, head, sampling).
        source: where the numbers come from.
        submit_s: device time of handing loads to the link, once per plan with loads (waking a
            thread, locking a queue).
        handover_s: further device time of each load of such a plan, also if nothing waits for it:
            submitting a read and collecting it, or a small copy.
        load_s: extra time of an expert computed for the first time after a load: its weights, and
            a thread that has waited, are not in the processor's caches.
        predict_s: calling the prefetcher, once a visit.
        host_expert_s: computing one expert for one token on the host instead of fetching it; None:
            its bytes at `host_bytes_per_s`.
        memory_bytes_per_s: the device's own memory.
        host_bytes_per_s: the host's memory, as copies and the host's computing see it.
        select_s: selecting neurons, once a visit.
        break_even: by store ("ram", "disk"), the share of an expert's rows from which on moving the
            whole expert is faster, for the calibrated model; 1 for a store not named.
    """

    name: str = "auto"
    link_bytes_per_s: float | None = None
    link_latency_s: float = 0.0
    chunk_bytes: int = 4 << 20
    visit_s: float = 0.0
    expert_s: float = 0.0
    pass_s: float = 0.0
    source: str = ""
    host_expert_s: float | None = None
    memory_bytes_per_s: float | None = None
    host_bytes_per_s: float | None = None
    submit_s: float = 0.0
    handover_s: float = 0.0
    load_s: float = 0.0
    predict_s: float = 0.0
    select_s: float = 0.0
    break_even: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for name, given in vars(self).items():
            if name.endswith("_bytes_per_s") and given is not None and not given >= 1:
                raise ValueError(
                    f"hardware.{name}={given}: expected a positive number of bytes a second, at "
                    f"least 1; try hardware.{name}=12e9, as of PCIe 3.0 x16"
                )
            if name.endswith("_s") and given is not None and not given >= 0:
                raise ValueError(
                    f"hardware.{name}={given}: expected seconds, 0 or more; try hardware.{name}=0"
                )
        if self.chunk_bytes < 1:
            raise ValueError(
                f"hardware.chunk_bytes={self.chunk_bytes}: expected at least 1; "
                f"try hardware.chunk_bytes={HardwareProfile.chunk_bytes}"
            )
        for store, share in (self.break_even or {}).items():
            if not 0 < share <= 1:
                raise ValueError(
                    f"hardware.break_even.{store}={share}: expected a share in (0, 1]; "
                    f"try hardware.break_even.{store}=1"
                )

    def host_seconds(self, expert_bytes: int) -> float | None:
        """Return seconds of one expert on the host for one token; by default bytes / bandwidth."""
        if self.host_expert_s is None and self.host_bytes_per_s is not None:
            return expert_bytes / self.host_bytes_per_s
        return self.host_expert_s

    def with_faster_link(self, factor: float) -> Self:
        """Return the profile with `factor` times the link's bandwidth, if it has one."""
        if self.link_bytes_per_s is None:
            return self
        return replace(self, link_bytes_per_s=factor * self.link_bytes_per_s)

    def with_faster_computing(self, factor: float) -> Self:
        """Return the profile with device and host computing `factor` times as fast."""
        costs = {name: getattr(self, name) / factor for name in COSTS}
        if self.host_expert_s is not None:
            costs["host_expert_s"] = self.host_expert_s / factor
        elif self.host_bytes_per_s is not None:
            costs["host_bytes_per_s"] = self.host_bytes_per_s * factor
        return replace(self, **costs)

    @property
    def measured_here(self) -> bool:
        """Whether its link is set only by a live run, which measures this machine before."""
        return False

    @property
    def timed(self) -> bool:
        """Whether the profile has a link bandwidth, so that times can be modelled."""
        return self.link_bytes_per_s is not None

    def resident_token_s(self, layers: int, top_k: int) -> float:
        """Return the seconds of a decoded token whose experts are all resident."""
        return layers * (self.visit_s + top_k * self.expert_s) + self.pass_s
