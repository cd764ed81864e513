"""Pauses prefetching while it costs more than it brings, by counts alone.

What is counted are prefetches that ended: used by the visit that they were made for, or dropped. A
live run and a replay of its trace end the same prefetches at the same visits, so both pause alike;
no clock is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.types import DECODE

if TYPE_CHECKING:
    from moex.types import Access, Plan

OFF, LEAST, NEVER = 0.0, 0.2, 1.0
"""The least precision of a free link, of one that copies while the device computes, and of one that
copies in the computing thread: there a prefetch hides nothing, so none is made."""

WINDOW, PROBE = 64, 16
"""Ended prefetches that precision is taken of: usually, and after a pause."""

FIRST, LONGEST = 64, 4096
"""Visits of a pause: the first one, and at most; each is twice as long as the one before."""


class Governor:
    """Decides at every visit whether the prefetcher is asked.

    Prefetching runs until `WINDOW` prefetches have ended. If fewer than a share of `least` were
    used, it pauses for `FIRST` visits, and is then tried until `PROBE` prefetches have ended. After
    a poor trial it pauses twice as long; after a good one it runs for a window again, and a good
    window makes the next pause a first one. Only decoding is counted and paused: a prompt demands
    most experts of a layer, and prefetching one of them is seldom wrong.

    Args:
        least: the share of prefetches that must be used; `OFF` never pauses, `NEVER` always does,
            in prompts, too.
    """

    def __init__(self, least: float = OFF) -> None:
        self.least = least
        self.reset()

    def reset(self) -> None:
        """Forget all prefetches, and run freely."""
        self._begin(WINDOW)
        self.pause, self.left = FIRST, 0

    def _begin(self, enough: int) -> None:
        self.enough, self.used, self.ended = enough, 0, 0

    @property
    def state(self) -> str:
        """Whether it may pause: "on" or "off", as in the result row."""
        return "on" if self.least else "off"

    def count(self, access: Access, plan: Plan) -> None:
        """Count the prefetches that a plan of this visit ends; called before `allows`."""
        if self.left or access.phase != DECODE or not (plan.prefetched or plan.dropped):
            return
        self.used += len(plan.prefetched)
        self.ended += len(plan.prefetched) + len(plan.dropped)
        if self.ended < self.enough:
            return
        if self.used < self.least * self.ended:
            self.left, self.pause = self.pause, min(2 * self.pause, LONGEST)
            self._begin(PROBE)
        else:
            if self.enough == WINDOW:
                self.pause = FIRST
            self._begin(WINDOW)

    def allows(self, access: Access) -> bool:
        """Whether the prefetcher is asked in this visit; called once a visit."""
        if self.least >= NEVER:
            return False
        if access.phase != DECODE or not self.left:
            return True
        self.left -= 1
        return False
