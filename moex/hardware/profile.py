"""A machine as far as offloading cares: its link and what computing costs on it."""

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
"""Fields of a profile: all that computing takes on the device."""


@dataclass(frozen=True)
class HardwareProfile:
    """Numbers of one machine; in a live run the link is emulated, in simulation all is modelled.

    Args:
        name: what the result row calls it.
        link_bytes_per_s: bandwidth of the link that experts cross; None: whatever is really there.
        link_latency_s: paid once by every transfer.
        chunk_bytes: demand overtakes speculation at this granularity.
        visit_s: a layer visit without its experts (attention, norms, router, bookkeeping).
        expert_s: computing one expert for one token.
        pass_s: a forward pass beside its layers (embedding, head, sampling).
        source: where the numbers come from.
        submit_s: what handing loads to the link costs the computing lane, once a plan that moves
            anything, however many (a thread is woken, a queue locked).
        handover_s: what each load of such a plan costs it beside that, also when nobody waits: a
            read given to the kernel and taken back, a small copy made at once.
        load_s: what an expert costs more when it is computed for the first time after a load: its
            weights are cold, and so is a lane that has waited.
        predict_s: asking the prefetcher, once a visit.
        host_expert_s: computing one expert for one token on the host instead of fetching it; None:
            its bytes at `host_bytes_per_s`.
        memory_bytes_per_s: the device's own memory.
        host_bytes_per_s: the host's memory, as copies and the host's computing see it.
        select_s: selecting neurons, once a visit.
        break_even: by store ("ram", "disk"), the share of an expert's rows from which on moving all
            of it is faster, for the model that was calibrated; a store not named: 1.
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
        """One expert on the host for one token: as given, else its bytes at the memory's speed."""
        if self.host_expert_s is None and self.host_bytes_per_s is not None:
            return expert_bytes / self.host_bytes_per_s
        return self.host_expert_s

    def with_faster_link(self, factor: float) -> Self:
        """The profile with so many times the link's bandwidth, where it says any."""
        if self.link_bytes_per_s is None:
            return self
        return replace(self, link_bytes_per_s=factor * self.link_bytes_per_s)

    def with_faster_computing(self, factor: float) -> Self:
        """The profile with device and host that compute so many times as fast."""
        costs = {name: getattr(self, name) / factor for name in COSTS}
        if self.host_expert_s is not None:
            costs["host_expert_s"] = self.host_expert_s / factor
        elif self.host_bytes_per_s is not None:
            costs["host_bytes_per_s"] = self.host_bytes_per_s * factor
        return replace(self, **costs)

    @property
    def timed(self) -> bool:
        """Whether the profile says how fast anything is."""
        return self.link_bytes_per_s is not None

    def resident_token_s(self, layers: int, top_k: int) -> float:
        """Seconds of a decoded token that finds all its experts resident."""
        return layers * (self.visit_s + top_k * self.expert_s) + self.pass_s
