"""Important experts ask for both slices, all others for the high one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from moex.cache.variants.slice_cache import HIGH, WHOLE
from moex.miss.base import SliceHandler, weight_before

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.hardware.profile import HardwareProfile
    from moex.types import Access, Geometry


@dataclass
class Slices(SliceHandler):
    """The same bytes hold more experts, of which only some have their low slice, too.

    After Choi et al. 2025 (SliceMoE), arXiv 2512.12990: slices are cached apart, precision is
    assigned by demand, and low slices leave first. When an expert is important is our rule: while
    the share of the routing weight of its visit's better experts is at most `important`. Nothing is
    skipped.

    Args:
        important: up to this share, both slices are asked for; 1: always.
        whole: the share of residents whose low slices have room; the smaller, the more residents.
    """

    important: float = 0.6
    whole: float = 0.5

    def bound(self, geometry: Geometry, hardware: HardwareProfile | None) -> Self:
        """Check the threshold."""
        if not 0 <= self.important <= 1:
            raise ValueError(
                f"miss.important={self.important}: expected a share of a visit's routing weight, "
                "0 to 1; try miss.important=0.6"
            )
        return self

    def levels(self, access: Access) -> Sequence[int]:
        """Return the level that a decoding visit asks of each of its experts."""
        shares = weight_before(access, self)
        return [WHOLE if before <= self.important else HIGH for before in shares]
