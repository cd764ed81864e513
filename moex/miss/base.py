"""The interface of a miss handler: it decides what is done about absent demanded experts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

from moex.cache.variants.slice_cache import ABSENT

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

    fetches_all: ClassVar[bool] = False
    """Whether nothing is split: the cache fetches every miss by itself."""

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


class SliceHandler(MissHandler):
    """Asks for some experts in fewer bits: their high slice, of records that have two slices.

    An expert computes at the level that is asked for, or at a higher one that is resident. One that
    is not asked for is skipped if it is absent. Lossy: logits depend on which experts are resident.
    As with `Skip`, shares are of the whole visit, whose scores are summed over the batch.
    """

    lossy: ClassVar[bool] = True

    whole: float
    """The share of residents whose low slices have room on the device."""

    @abstractmethod
    def levels(self, access: Access) -> Sequence[int]:
        """Return what a decoding visit asks of each of its experts, in their order.

        WHOLE, HIGH or ABSENT; a pure function of the visit. Its best expert is never ABSENT.
        """

    def split(self, access: Access, missing: Sequence[Expert], room: int) -> Split:
        """Fetch the misses that are asked for, at whatever level; skip the others."""
        levels = dict(zip(access.experts, self.levels(access), strict=True))
        skipped = [expert for expert in missing if levels[expert.index] == ABSENT]
        return Split([expert for expert in missing if expert not in skipped], (), skipped)


def word_of(miss: MissHandler) -> str:
    """Return what is typed for a handler: the name of its file."""
    return type(miss).__module__.rpartition(".")[2]


def weight_before(access: Access, miss: MissHandler) -> list[float]:
    """Return for each expert of a visit the share of its experts of higher score in its weight.

    Args:
        access: the visit; experts of equal score count in top-k order.
        miss: for the message.

    Raises:
        ValueError: the visit has no scores.
    """
    experts, scores = access.experts, access.scores
    if not scores:
        raise ValueError(
            f"miss={word_of(miss)}: the visits have no router scores; expected a model whose "
            "routers give scores, or a trace with scores; try miss=fetch"
        )
    ordered = sorted(experts, key=scores.__getitem__, reverse=True)
    sums = [0.0, *accumulate(scores[index] for index in ordered)]
    before = dict(zip(ordered, sums, strict=False))
    return [before[index] / (sums[-1] or 1.0) for index in experts]
