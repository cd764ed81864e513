"""Least frequently used within a window."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moex.cache.array_policy import ArrayPolicy

if TYPE_CHECKING:
    from moex.cache.array_policy import Moment
    from moex.types import Scope

LONGEST = 4096
"""Passes of a window, of which every expert's use is kept."""


@dataclass
class WindowLFU(ArrayPolicy):
    """Evict the expert used least often in the last `window` passes.

    Karakostas & Serpanos 2002, ISCC; for experts the workload-aware window of DALI, which counts
    tokens where this counts visits (they are the same when one token is decoded).

    Raises:
        ValueError: `window` outside 1 to 4096.
    """

    window: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.window <= LONGEST:
            raise ValueError(
                f"cache.window={self.window}: expected 1 to {LONGEST} passes; try cache.window=64"
            )

    def state(self, scope: Scope) -> dict[str, Any]:
        """Return an empty window: for each of its visits the layer, and the experts used."""
        span = self.window * len(scope.layers)
        return {
            "count": [0] * scope.size,
            "layers": [0] * span,
            "members": bytearray(span * scope.experts),
            "visits": [0],
        }

    @staticmethod
    def visited(state: Any, now: Moment) -> None:
        """Slide the window: the oldest visit's uses no longer count."""
        span = len(state.layers)
        experts = len(state.members) // span
        slot = state.visits[0] % span
        for index in range(experts):
            if state.members[slot * experts + index]:
                state.members[slot * experts + index] = 0
                state.count[state.layers[slot] * experts + index] -= 1
        state.layers[slot] = now.layer
        state.visits[0] += 1

    @staticmethod
    def used(state: Any, expert: int, now: Moment, hit: bool) -> None:
        """Count the use."""
        span = len(state.layers)
        experts = len(state.members) // span
        slot = (state.visits[0] - 1) % span
        state.members[slot * experts + expert % experts] = 1
        state.count[expert] += 1

    @staticmethod
    def score(state: Any, expert: int, now: Moment) -> int:
        """Return the uses within the window."""
        return state.count[expert]
