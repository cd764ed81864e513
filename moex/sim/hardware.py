"""A machine as far as offloading cares: its link and what computing costs on it."""

from __future__ import annotations

from dataclasses import dataclass


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
        host_expert_s: computing one expert for one token on the host instead of fetching it.
        memory_bytes_per_s: the device's own memory.
        host_bytes_per_s: the host's memory, as copies and the host's computing see it.
        nvme_bytes_per_s: large reads from disk.
        predictor_s: per layer visit, selecting neurons and predicting them.
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
    nvme_bytes_per_s: float | None = None
    predictor_s: float = 0.0

    def __post_init__(self) -> None:
        if self.link_bytes_per_s is not None and self.link_bytes_per_s <= 0:
            raise ValueError(
                f"hardware.link_bytes_per_s={self.link_bytes_per_s}: expected a positive number "
                "of bytes a second, e.g. 12e9 for PCIe 3.0 x16"
            )
        if self.chunk_bytes < 1:
            raise ValueError(f"hardware.chunk_bytes={self.chunk_bytes}: expected at least 1")

    @property
    def timed(self) -> bool:
        """Whether the profile says how fast anything is."""
        return self.link_bytes_per_s is not None
