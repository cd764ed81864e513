"""Records a run's visits, and makes a trace of them."""

from __future__ import annotations

from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np

from moex.trace.format import DEPTHS, Trace
from moex.types import PREFILL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.trace.router_rows import RouterRows
    from moex.types import Access, Geometry, Prediction


class TraceRecorder:
    """Appends visits to lists (cheap during a run); `trace()` converts them to columns.

    Args:
        geometry: the model's.
        about: provenance of every trace that is made.
    """

    def __init__(self, geometry: Geometry, about: dict[str, Any] | None = None) -> None:
        self.geometry, self.about = geometry, about or {}
        self.accesses: list[Access] = []
        self.sequences: list[int] = []
        self.tokens: list[int | None] = []
        self.lookahead: list[tuple[tuple[float, ...], ...]] = []
        self.predictions: list[Sequence[Prediction]] = []
        self.needs: list[Sequence[int | None]] = []
        self.router: list[RouterRows] = []
        self.keeps_router = True
        self.resets: set[int] = set()

    def add(
        self,
        sequence: int,
        access: Access,
        lookahead: tuple[tuple[float, ...], ...] = (),
        predictions: Sequence[Prediction] = (),
        tokens: int | None = None,
        needs: Sequence[int | None] = (),
        router: RouterRows | None = None,
    ) -> None:
        """Record one visit.

        Args:
            sequence: number of the visit's prompt or conversation.
            access: the visit.
            lookahead: gate-lookahead scores of the next layers.
            predictions: of the prefetcher.
            tokens: tokens of the visit; None if unknown.
            needs: the bitmap of selected rows of each of its experts; None for all.
            router: its router rows; those of all visits are kept, or of none.
        """
        self.accesses.append(access)
        self.sequences.append(sequence)
        self.lookahead.append(lookahead)
        self.predictions.append(predictions)
        self.tokens.append(tokens)
        self.needs.append(needs)
        if router is not None and self.keeps_router:
            self.router.append(router)

    def cut(self, count: int) -> None:
        """Keep only the first `count` visits, also if the last was recorded in part."""
        columns: tuple[list[Any], ...] = (
            self.accesses,
            self.sequences,
            self.lookahead,
            self.predictions,
            self.tokens,
            self.needs,
            self.router,
        )
        for column in columns:
            del column[count:]

    def trace(self, provenance: dict[str, Any]) -> Trace:
        """Return everything recorded so far."""
        width, accesses = self.geometry.experts, self.accesses
        offsets = np.zeros(len(accesses) + 1, np.int64)
        np.cumsum([len(access.experts) for access in accesses], out=offsets[1:])
        lookahead = np.full((len(accesses), DEPTHS * width), nan, np.float32)
        for row, known in zip(lookahead, self.lookahead, strict=True):
            for depth, scores in enumerate(known):
                row[depth * width : (depth + 1) * width] = scores
        size = -(-self.geometry.intermediate // 8)
        rows = [
            [None if need is None else need.to_bytes(size, "little") for need in needs]
            for needs in self.needs
        ]
        scored = bool(accesses) and all(access.scores for access in accesses)
        return Trace(
            geometry=self.geometry,
            sequence=np.asarray(self.sequences, np.int32),
            position=np.asarray([access.position for access in accesses], np.int32),
            layer=np.asarray([access.layer for access in accesses], np.int16),
            prefill=np.asarray([access.phase == PREFILL for access in accesses], np.bool_),
            experts=np.asarray([i for a in accesses for i in a.experts], np.uint16),
            offsets=offsets,
            scores=np.asarray([a.scores for a in accesses], np.float32) if scored else None,
            lookahead=lookahead if any(self.lookahead) else None,
            predictions=[list(row) for row in self.predictions],
            rows=rows if any(self.needs) else None,
            provenance=self.about | provenance,
            tokens=None if None in self.tokens else np.asarray(self.tokens, np.int32),
            resets=tuple(sorted(each for each in self.resets if each < len(accesses))),
            router=self.router if self.router else None,
        )
