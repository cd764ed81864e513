"""What a miss handler is: a demanded expert is absent, and it says what is done about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.hardware.profile import HardwareProfile
    from moex.types import Access, Expert, Geometry


class Split(NamedTuple):
    """The absent experts of one visit, shared out; each part in top-k order."""

    fetch: Sequence[Expert] = ()
    host: Sequence[Expert] = ()
    skipped: Sequence[Expert] = ()


class MissHandler(ABC):
    """Shares out the misses of one decoding visit; in prefill every miss is fetched.

    A pure function of the visit and of constants: no clock, no state, no arrival. So a replay takes
    the same decisions. What is not fetched does not enter the cache.
    """

    lossy: ClassVar[bool] = False
    """Whether logits may change."""

    on_host: ClassVar[bool] = False
    """Whether experts are computed from the host's memory, which must then hold them."""

    def bound(self, geometry: Geometry, hardware: HardwareProfile | None) -> Self:
        """Return a handler for this model whose missing constants are the profile's.

        Raises:
            ValueError: a constant is missing, or makes no sense for this model.
        """
        return self

    @abstractmethod
    def split(self, access: Access, missing: Sequence[Expert], room: int) -> Split:
        """Share out `missing` (in top-k order); `room` slots of the layer's pool are empty."""
