"""Absent experts of low routing weight are loaded in fewer bits, or skipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from moex.cache.variants.slice_cache import ABSENT, HIGH, WHOLE
from moex.miss.base import SliceHandler, weight_before

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.hardware.profile import HardwareProfile
    from moex.types import Access, Geometry


@dataclass
class LowBits(SliceHandler):
    """The more routing weight comes before an expert in its visit, the fewer bits a miss loads.

    Tang et al. 2024 (HOBBIT), arXiv 2411.01433: a miss loads all bits while the share of the
    experts of higher score is at most `high`, fewer bits while it is at most `low`, and nothing
    after that. What is resident computes at the level that it has, or at a higher one that is asked
    for. There the low-bit experts are copies of their own; here they are the high slices of
    the same records (`quant=sliced`).

    Args:
        high: up to this share, both slices are asked for; 1: always.
        low: up to this share, at least the high slice; 1: always.
        whole: the share of residents whose low slices have room. 1 gives as many residents as
            without slices, or few more; less gives more residents, and fewer of them whole.
    """

    high: float = 0.6
    low: float = 0.9
    whole: float = 1.0

    def bound(self, geometry: Geometry, hardware: HardwareProfile | None) -> Self:
        """Check the thresholds."""
        if not 0 <= self.high <= self.low <= 1:
            raise ValueError(
                f"miss.high={self.high} miss.low={self.low}: expected shares with 0 <= high <= low "
                "<= 1; try miss.high=0.6 miss.low=0.9"
            )
        return self

    def levels(self, access: Access) -> Sequence[int]:
        """Return the level that a decoding visit asks of each of its experts."""
        return [
            WHOLE if before <= self.high else HIGH if before <= self.low else ABSENT
            for before in weight_before(access, self)
        ]
