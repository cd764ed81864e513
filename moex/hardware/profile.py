"""The profile of a machine: its link, its compute costs, and the model that these belong to.

**How costs scale.** Computing for one token reads every weight that it uses once, so what differs
between two models is the bytes read, at `weights_bytes_per_s`; everything else (launches, software,
bookkeeping) is taken to be the machine's own. A profile names the bytes that its costs were fitted
on, and on another model (`HardwareProfile.on`)

    expert_s' = expert_s + (expert_bytes' - expert_bytes) / weights_bytes_per_s
    visit_s'  = visit_s  + (layer_bytes'  - layer_bytes)  / weights_bytes_per_s
    pass_s'   = pass_s   + (pass_bytes'   - pass_bytes)   / weights_bytes_per_s

never below 0. The host's seconds of an expert are proportional to its bytes; the other costs stay.
A profile that cannot be scaled is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    from moex.types import Geometry

READ_SHARE = 0.85
"""Share of the vendor's memory bandwidth that good kernels reach when reading weights."""

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
        host_expert_s: computing one expert of `expert_bytes` for one token on the host instead of
            fetching it; None: its bytes at `host_bytes_per_s`.
        memory_bytes_per_s: the device's own memory.
        host_bytes_per_s: the host's memory, as copies and the host's computing see it.
        disk_bytes_per_s: bandwidth of the disk below the host's memory, for a host tier.
        disk_latency_s: latency of every read from it.
        select_s: selecting neurons, once a visit.
        break_even: by store ("ram", "disk"), the share of rows selected from which on visits with
            whole experts are faster, for the calibrated model; 1 for a store not named.
        fitted_on: name of the model that the costs belong to.
        expert_bytes: bytes of one of its experts, which `expert_s` computes with.
        layer_bytes: bytes of a layer's other weights, which `visit_s` computes with.
        pass_bytes: bytes of the weights that `pass_s` computes with (the head).
        weights_bytes_per_s: the rate at which computing for one token reads weights; None: 85 % of
            `memory_bytes_per_s`.
        machine: measured by `mode=calibrate`, as in a result row; "" for a device to be emulated.
        streams: whether computing with an expert of several chunks begins while it arrives.
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
    fitted_on: str = ""
    expert_bytes: int | None = None
    layer_bytes: int | None = None
    pass_bytes: int = 0
    weights_bytes_per_s: float | None = None
    machine: str = ""
    streams: bool = False
    disk_bytes_per_s: float | None = None
    disk_latency_s: float = 0.0

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
        for name, least in (("expert_bytes", 1), ("layer_bytes", 0), ("pass_bytes", 0)):
            given = getattr(self, name)
            if given is not None and given < least:
                raise ValueError(
                    f"hardware.{name}={given}: expected bytes, at least {least}; "
                    f"try hardware.{name}={least}"
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

    def refuse_other_machine(self, here: str) -> None:
        """Refuse to run live, on the machine `here`, with what was measured on another one.

        Its costs and break-evens would decide about this machine's computing. A forecast for the
        other machine (`mode=simulate`, `mode=plan`) computes nothing, and may use them.

        Raises:
            ValueError: the profile was measured on another machine.
        """
        if self.machine not in ("", here):
            raise ValueError(
                f"hardware={self.name}: hardware.machine={self.machine!r}; expected a profile of "
                f"this machine, {here!r}, in a live run; try python run.py mode=calibrate for one, "
                "or mode=simulate for a forecast of that machine"
            )

    def host_seconds(self, expert_bytes: int) -> float | None:
        """Return seconds of one expert on the host for one token; by default bytes / bandwidth."""
        if self.host_expert_s is None:
            return self.host_bytes_per_s and expert_bytes / self.host_bytes_per_s
        share = expert_bytes / self.expert_bytes if self.expert_bytes else 1.0
        return self.host_expert_s * share

    def on(self, geometry: Geometry, layer_bytes: int | None = None, pass_bytes: int = 0) -> Self:
        """Return the profile with its costs scaled to a model, as the module says.

        Args:
            geometry: of the model.
            layer_bytes: bytes of a layer's weights besides experts; None: not known. Where they, or
                the profile's, are not known, they are taken to be the profile's if experts have
                the fitted size, else `estimated_layer_bytes`.
            pass_bytes: bytes of the head's weights.

        Raises:
            ValueError: the profile does not say which model its costs belong to, or how fast
                weights are read; or the geometry's widths are not known.
        """
        size, known = geometry.expert_bytes, layer_bytes is not None
        if not (self.visit_s or self.expert_s or self.pass_s):
            return self
        if self.expert_bytes == size and not (known and self.layer_bytes is not None):
            return self
        own = f"try ++hardware.expert_bytes={size} if the costs are this model's"
        if self.expert_bytes is None or self.layer_bytes is None:
            lacks = "expert_bytes" if self.expert_bytes is None else "layer_bytes"
            raise ValueError(
                f"hardware={self.name}: has compute costs without {lacks} of the model that they "
                f"belong to, so they cannot be scaled to this one's experts of {size} bytes; {own}"
            )
        fitted = f"{self.fitted_on or 'a model'} with experts of {self.expert_bytes} bytes"
        if not known and not geometry.hidden:
            raise ValueError(
                f"hardware={self.name}: has costs of {fitted}; to scale them to experts of {size} "
                f"bytes, expected known widths, and this geometry has hidden=0; {own}"
            )
        layer_bytes = estimated_layer_bytes(geometry) if layer_bytes is None else layer_bytes
        bytes_read = {"expert_bytes": size, "layer_bytes": layer_bytes, "pass_bytes": pass_bytes}
        more = {name: value - getattr(self, name) for name, value in bytes_read.items()}
        if not any(more.values()):
            return self
        rate = self.weights_bytes_per_s
        if rate is None and self.memory_bytes_per_s is not None:
            rate = READ_SHARE * self.memory_bytes_per_s
        if rate is None:
            raise ValueError(
                f"hardware={self.name}: has costs of {fitted}; to scale them to experts of {size} "
                "bytes, expected weights_bytes_per_s, how fast computing reads weights; "
                "try ++hardware.weights_bytes_per_s=1e10"
            )
        return replace(
            self,
            expert_s=max(0.0, self.expert_s + more["expert_bytes"] / rate),
            visit_s=max(0.0, self.visit_s + more["layer_bytes"] / rate),
            pass_s=max(0.0, self.pass_s + more["pass_bytes"] / rate),
            host_expert_s=None if self.host_expert_s is None else self.host_seconds(size),
            **bytes_read,  # type: ignore[arg-type]
        )

    def with_faster_link(self, factor: float) -> Self:
        """Return the profile with `factor` times the link's bandwidth, if it has one."""
        if self.link_bytes_per_s is None:
            return self
        return replace(self, link_bytes_per_s=factor * self.link_bytes_per_s)

    def with_faster_disk(self, factor: float) -> Self:
        """Return the profile with `factor` times the disk's bandwidth, if it has one."""
        if self.disk_bytes_per_s is None:
            return self
        return replace(self, disk_bytes_per_s=factor * self.disk_bytes_per_s)

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


def estimated_layer_bytes(geometry: Geometry) -> int:
    """Return about the bytes of a layer's weights besides experts: 2.5 * hidden^2, 16 bits each.

    That is grouped-query attention: query and output of hidden x hidden, key and value of a quarter
    of it each.
    """
    return int(2.5 * geometry.hidden**2 * 2)
