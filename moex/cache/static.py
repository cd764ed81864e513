"""A fixed set of experts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.cache.array_policy import ArrayPolicy

if TYPE_CHECKING:
    from moex.cache.array_policy import Moment
    from moex.types import Scope


@dataclass
class Static(ArrayPolicy):
    """Keep the experts that a calibration used most (Fiddler, KTransformers).

    `counts` is the histogram of a calibration run, layers x experts, or the path of a JSON file
    that holds it. Without one the policy counts uses of the run until each layer had `calibration`
    visits (evicting the least used meanwhile), then fixes its set. Pinned experts enter when they
    are first demanded; all others are computed from staging. Ties: lower layer,
    then lower index.

    Raises:
        ValueError: `calibration` below 1, or counts of another geometry.
        FileNotFoundError: no such file of counts.
    """

    counts: str | list[list[float]] | None = None
    calibration: int = 100

    bypass = True  # an expert that is not pinned is not kept for having just been used

    def __post_init__(self) -> None:
        if self.calibration < 1:
            raise ValueError(
                f"cache.calibration={self.calibration}: expected visits per layer from 1, e.g. 100"
            )

    def state(self, scope: Scope) -> dict[str, Any]:
        """Return the set of the given counts, or the beginning of a calibration."""
        pinned = [False] * scope.size
        if self.counts is not None:
            uses = self._read(scope)
            for expert in sorted(range(scope.size), key=lambda e: -uses[e])[: scope.capacity]:
                pinned[expert] = True
        return {
            "pinned": pinned,
            "fixed": [self.counts is not None],
            "uses": [0] * scope.size,
            "visits": [0],
            "enough": [self.calibration * len(scope.layers)],
            "capacity": [scope.capacity],
        }

    def _read(self, scope: Scope) -> list[float]:
        table = self.counts
        if isinstance(table, str):
            if not Path(table).is_file():
                raise FileNotFoundError(
                    f"cache.counts={table}: no such file; runs write results/RUN_ID/counts.json"
                )
            try:
                table = json.loads(Path(table).read_text(encoding="utf-8"))
            except ValueError as error:
                raise ValueError(
                    f"cache.counts={table}: not JSON ({error}); expected counts, layers x experts, "
                    "as runs write them: results/RUN_ID/counts.json"
                ) from error
        assert table is not None
        if not _counted(table, scope):
            raise ValueError(
                f"cache.counts: expected a row of {scope.experts} counts for each layer up to "
                f"{max(scope.layers)}, one per expert; every run of this model writes them: "
                "results/RUN_ID/counts.json; try cache.counts=null"
            )
        return [count for layer in scope.layers for count in table[layer]]

    @staticmethod
    def visited(state: Any, now: Moment) -> None:
        """End the calibration when it has seen enough."""
        state.visits[0] += 1
        if not state.fixed[0] and state.visits[0] > state.enough[0]:
            _pin_most_used(state)

    @staticmethod
    def used(state: Any, expert: int, now: Moment, hit: bool) -> None:
        """Count while calibrating."""
        if not state.fixed[0]:
            state.uses[expert] += 1

    @staticmethod
    def admits(state: Any, expert: int, now: Moment) -> bool:
        """Admit only pinned experts, once the set is fixed."""
        return not state.fixed[0] or state.pinned[expert]

    @staticmethod
    def score(state: Any, expert: int, now: Moment) -> int:
        """Return a score: pinned experts over all others; while calibrating, the uses."""
        return int(state.pinned[expert]) if state.fixed[0] else state.uses[expert]


def _pin_most_used(state: Any) -> None:
    """Fix the set: the most used experts, of equals the first."""
    state.fixed[0] = True
    left, uses = state.capacity[0], max(state.uses)
    while left > 0 and uses >= 0:
        for expert in range(len(state.uses)):
            if left > 0 and state.uses[expert] == uses:
                state.pinned[expert] = True
                left -= 1
        uses -= 1


def _counted(table: Any, scope: Scope) -> bool:
    """Whether there is a row of counts for every layer, and a count for every expert."""
    if not isinstance(table, list | tuple) or len(table) <= max(scope.layers):
        return False
    rows = [row if isinstance(row, list | tuple) else [] for row in table]
    whole = all(len(row) == scope.experts for row in rows)
    return whole and all(isinstance(n, int | float) and 0 <= n < inf for row in rows for n in row)
