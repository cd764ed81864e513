"""A fixed set of experts."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.cache.base import CachePolicy
from moex.types import Expert

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.types import Access, Now, Scope


@dataclass
class Static(CachePolicy):
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

    def reset(self, scope: Scope) -> None:
        """Pin the most used experts of the given counts, or start a calibration."""
        self.scope = scope
        self.uses: Counter[Expert] = Counter()
        self.visits = 0
        self.pinned: set[Expert] | None = None
        if self.counts is not None:
            self.uses.update(self._read())
            self._freeze()

    def _read(self) -> dict[Expert, float]:
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
        scope = self.scope
        if not _counted(table, scope):
            raise ValueError(
                f"cache.counts: expected a row of {scope.experts} counts for each layer up to "
                f"{max(scope.layers)}, one per expert; every run of this model writes them: "
                "results/RUN_ID/counts.json; try cache.counts=null"
            )
        return {
            Expert(layer, index): count
            for layer in scope.layers
            for index, count in enumerate(table[layer])
        }

    def _freeze(self) -> None:
        everyone = [Expert(la, i) for la in self.scope.layers for i in range(self.scope.experts)]
        everyone.sort(key=lambda expert: -self.uses[expert])
        self.pinned = set(everyone[: self.scope.capacity])

    def on_visit(self, access: Access) -> None:
        """End the calibration when it has seen enough."""
        self.visits += 1
        if self.pinned is None and self.visits > self.calibration * len(self.scope.layers):
            self._freeze()

    def on_access(self, expert: Expert, now: Now, hit: bool) -> None:
        """Count while calibrating."""
        if self.pinned is None:
            self.uses[expert] += 1

    def admit(self, expert: Expert, now: Now) -> bool:
        """Admit only pinned experts, once the set is fixed."""
        return self.pinned is None or expert in self.pinned

    def victim(self, candidates: Sequence[Expert], now: Now) -> Expert:
        """Return an expert that is not pinned, or while calibrating the least used."""
        if self.pinned is not None:
            return next(expert for expert in candidates if expert not in self.pinned)
        return min(candidates, key=self.uses.__getitem__)


def _counted(table: Any, scope: Scope) -> bool:
    """Whether there is a row of counts for every layer, and a count for every expert."""
    if not isinstance(table, list | tuple) or len(table) <= max(scope.layers):
        return False
    rows = [row if isinstance(row, list | tuple) else [] for row in table]
    whole = all(len(row) == scope.experts for row in rows)
    return whole and all(isinstance(n, int | float) and 0 <= n < inf for row in rows for n in row)
