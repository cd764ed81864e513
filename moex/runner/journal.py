"""Records a run: the cache statistics of every layer, and the trace of its visits.

A visit is recorded completely or not at all. If one is interrupted, the next call rolls back what
it recorded and starts with an empty cache: a *reset*, which the trace stores, so that a replay
takes the same decisions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moex.cache.stats import CacheStats
from moex.decisions.rerouter import Swaps
from moex.trace.record import TraceRecorder

if TYPE_CHECKING:
    from pathlib import Path

    from moex.types import Geometry


class Journal:
    """Statistics and trace of a run, with a snapshot from before the current visit.

    Args:
        geometry: the model's geometry.
        about: what the trace says of the run: `routing`, and `overlaps`, whether the link copies
            while the device computes, because a replay must pause prefetching as the run did.
        folder: where a long run's visits are kept in files until it ends; default the system's
            temporary one.
    """

    def __init__(
        self, geometry: Geometry, about: dict[str, Any], folder: Path | None = None
    ) -> None:
        self.recorder = TraceRecorder(geometry, about, folder)
        self.swaps = Swaps()
        self.layer_stats = [CacheStats(geometry) for _ in range(geometry.layers)]
        self._before: tuple[int, list[dict[str, int]], int] | None = None

    def anew(self, folder: Path | None = None) -> Journal:
        """Return an empty journal of the same model and run; `folder` as for a new one."""
        return Journal(self.recorder.geometry, self.recorder.about, folder)

    @property
    def clock(self) -> int:
        """Number of recorded visits: the clock of the next one."""
        return len(self.recorder)

    @property
    def interrupted(self) -> bool:
        """Whether a visit was begun and not ended; between calls: it was interrupted."""
        return self._before is not None

    def begin(self, layer: int) -> None:
        """Take a snapshot: only this layer's statistics may change before `end`."""
        self._before = layer, self.layer_stats[layer].snapshot(), self.clock

    def end(self) -> None:
        """Keep what was recorded since `begin`."""
        self._before = None

    def take_back(self) -> None:
        """Roll back what was recorded since `begin`, and record a reset."""
        if self._before is not None:
            layer, counts, clock = self._before
            self.layer_stats[layer].restore(counts)
            self.recorder.cut(clock)
            if clock:
                self.recorder.resets.add(clock)
