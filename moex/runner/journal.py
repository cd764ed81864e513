"""What a run writes down: the statistics of every layer, and the trace of its visits.

A visit is written down whole or not at all. If one is interrupted, the next call takes back what it
has written and starts with an empty cache: a *reset*, which the trace records, so that a replay
of it takes the same decisions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moex.cache.stats import CacheStats
from moex.trace.record import TraceRecorder

if TYPE_CHECKING:
    from moex.types import Geometry


class Journal:
    """Statistics and trace of a run, as they stood before the running visit and as they stand.

    Args:
        geometry: of the model.
    """

    def __init__(self, geometry: Geometry) -> None:
        self.recorder = TraceRecorder(geometry)
        self.layer_stats = [CacheStats(geometry) for _ in range(geometry.layers)]
        self._before: tuple[int, CacheStats, int] | None = None

    @property
    def clock(self) -> int:
        """How many visits are written down: the clock of the next one."""
        return len(self.recorder.accesses)

    @property
    def interrupted(self) -> bool:
        """Whether something was begun and not ended; between calls: it was interrupted."""
        return self._before is not None

    def begin(self, layer: int) -> None:
        """Remember how things stand: only this layer's statistics may change before `end`."""
        self._before = layer, self.layer_stats[layer].copy(), self.clock

    def end(self) -> None:
        """Keep what was written down since `begin`."""
        self._before = None

    def take_back(self) -> None:
        """Take back what was written down since `begin`, and record a reset."""
        if self._before is not None:
            layer, cache_stats, clock = self._before
            self.layer_stats[layer] = cache_stats
            self.recorder.cut(clock)
            if clock:
                self.recorder.resets.add(clock)
