"""The interface of a miss handler: it decides what is done about absent demanded experts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.hardware.profile import HardwareProfile
    from moex.types import Access, Expert, Geometry


class Split(NamedTuple):
    """The absent experts of one visit by how they are handled; each part in top-k order."""

    fetch: Sequence[Expert] = ()
    host: Sequence[Expert] = ()
    skipped: Sequence[Expert] = ()
    deferred: Sequence[Expert] = ()


class MissHandler(ABC):
    """Splits the misses of one decoding visit; in prefill every miss is fetched.

    A pure function of the visit and of constants: no clock, no state, no arrival times. So a replay
    takes the same decisions. Only experts that are fetched or deferred enter the cache.
    """

    lossy: ClassVar[bool] = False
    """Whether logits may change."""

    defers: ClassVar[bool] = False
    """Whether experts are computed in the visit of the next layer."""

    on_host: ClassVar[bool] = False
    """Whether experts are computed on the host, whose memory must then hold them."""

    def bound(self, geometry: Geometry, hardware: HardwareProfile | None) -> Self:
        """Return a handler for this model, with missing constants taken from the profile.

        Raises:
            ValueError: a constant is missing, or invalid for this model.
        """
        return self

    @abstractmethod
    def split(self, access: Access, missing: Sequence[Expert], room: int) -> Split:
        """Split `missing` (in top-k order); `room` slots of the layer's pool are empty."""
