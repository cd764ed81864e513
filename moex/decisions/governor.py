"""Pauses prefetching while it costs more than it brings, by counts alone.

What is counted are prefetches that ended: used by the visit that they were made for, or dropped. A
live run and a replay of its trace end the same prefetches at the same visits, so both pause alike;
no clock is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moex.types import DECODE

if TYPE_CHECKING:
    from moex.hardware.profile import HardwareProfile
    from moex.types import Access, Geometry, Plan

LEAST, NEVER = 0.3, 1.0
"""The least precision on a link of unknown speed (where a load takes four layers and goes in nine
chunks, prefetches pay from there on), and on one that copies in the computing thread: there they
hide nothing."""

WINDOW, PROBE = 64, 32
"""Ended prefetches that precision is taken of: usually, and after a pause."""

FIRST, LONGEST = 64, 4096
"""Visits of a pause: the first one, and at most; each is twice as long as the one before."""


def least_precision(geometry: Geometry, hardware: HardwareProfile | None, overlaps: bool) -> float:
    """Return the share of prefetches that must be used for prefetching to pay.

    On a timed profile, the break-even: a used prefetch hides the layer that is computed before it
    is demanded, or itself if that is shorter; an unused one is handed over, and if it takes longer
    than that layer, demand waits for its chunk in flight.

    Args:
        geometry: of the model or trace.
        hardware: a timed profile overlaps; None or untimed: the link's speed is unknown.
        overlaps: whether the link copies while the device computes (`Link.overlaps`).
    """
    if hardware is None or hardware.link_bytes_per_s is None:
        return LEAST if overlaps else NEVER
    speed, size = hardware.link_bytes_per_s, geometry.expert_bytes
    layer_s = hardware.visit_s + geometry.top_k * hardware.expert_s
    load_s = hardware.link_latency_s + size / speed
    chunk_s = load_s - max(0, size - hardware.chunk_bytes) / speed
    lost_s = hardware.handover_s + max(0.0, min(chunk_s, load_s - layer_s))
    hidden_s = min(load_s, layer_s)
    return lost_s / (lost_s + hidden_s) if hidden_s else LEAST


class Governor:
    """Decides at every visit whether the prefetcher is asked.

    Prefetching runs until `WINDOW` prefetches have ended. If fewer than a share of `least` were
    used, it pauses for `FIRST` visits, and is then tried until `PROBE` prefetches have ended. After
    a poor trial it pauses twice as long; after a good one it runs for a window again, and a good
    window makes the next pause a first one. Only decoding is counted and paused: a prompt demands
    most experts of a layer, and prefetching one of them is seldom wrong.

    Args:
        least: the share of prefetches that must be used; None never pauses, `NEVER` always does, in
            prompts, too.
    """

    def __init__(self, least: float | None = None) -> None:
        self.least = least
        self.numbers = [0] * 5
        self.reset()

    def reset(self) -> None:
        """Forget all prefetches, and run freely."""
        begin(self.numbers)

    @property
    def state(self) -> str:
        """Whether it may pause: "on" or "off", as in the result row."""
        return "off" if self.least is None else "on"

    def count(self, access: Access, plan: Plan) -> None:
        """Count the prefetches that a plan of this visit ends; called before `allows`."""
        if access.phase == DECODE:
            count_ended(self.numbers, self.least or 0.0, len(plan.prefetched), len(plan.dropped))

    def allows(self, access: Access) -> bool:
        """Whether the prefetcher is asked in this visit; called once a visit."""
        return allows(self.numbers, self.least or 0.0, access.phase == DECODE)


LEFT, PAUSE, ENOUGH, USED, ENDED = range(5)
"""Numbers of a governor: visits left of a pause, of the next pause, prefetches to wait for; those
that were used and that ended. The functions on them also run compiled, in replays."""


def begin(numbers: Any) -> None:
    """Forget all prefetches, and run freely."""
    _look(numbers, WINDOW)
    numbers[PAUSE], numbers[LEFT] = FIRST, 0


def _look(numbers: Any, enough: int) -> None:
    numbers[ENOUGH], numbers[USED], numbers[ENDED] = enough, 0, 0


def count_ended(numbers: Any, least: float, used: int, dropped: int) -> None:
    """Count the prefetches that a plan of a decoding visit ends."""
    if not least or numbers[LEFT]:
        return
    numbers[USED] += used
    numbers[ENDED] += used + dropped
    if numbers[ENDED] < numbers[ENOUGH]:
        return
    if numbers[USED] < least * numbers[ENDED]:
        numbers[LEFT], numbers[PAUSE] = numbers[PAUSE], min(2 * numbers[PAUSE], LONGEST)
        _look(numbers, PROBE)
    else:
        if numbers[ENOUGH] == WINDOW:
            numbers[PAUSE] = FIRST
        _look(numbers, WINDOW)


def allows(numbers: Any, least: float, decoding: bool) -> bool:
    """Whether the prefetcher is asked in a visit."""
    if least == NEVER:
        return False
    if not decoding or not numbers[LEFT]:
        return True
    numbers[LEFT] -= 1
    return False
