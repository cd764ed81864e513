"""Records a run's visits, and makes a trace of them."""

from __future__ import annotations

from math import nan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from moex.trace.files import open_stream
from moex.trace.format import DEPTHS, Trace
from moex.trace.writer import write_trace
from moex.types import PREFILL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from moex.trace.router_rows import RouterRows
    from moex.trace.stream import TraceStream
    from moex.types import Access, Geometry, Prediction

PART = 1 << 14
"""Visits that are kept in lists before they are written to a file."""


class Visit(NamedTuple):
    """What is recorded of one visit; the arguments of `TraceRecorder.add`."""

    sequence: int
    access: Access
    lookahead: tuple[tuple[float, ...], ...]
    predictions: Sequence[Prediction]
    tokens: int | None
    needs: Sequence[int | None]
    router: RouterRows | None = None


class TraceRecorder:
    """Appends visits to a list (cheap during a run); `trace()` converts them to columns.

    A long run's visits are written to files, `PART` at a time, in a temporary folder that is gone
    with the recorder.

    Args:
        geometry: the model's.
        about: provenance of every trace that is made.
        folder: in which the temporary one is made; default: the system's.
    """

    def __init__(
        self,
        geometry: Geometry,
        about: dict[str, Any] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.geometry, self.about, self.folder = geometry, about or {}, folder
        self.keeps_router = True
        self.resets: set[int] = set()
        self._parts: TemporaryDirectory[str] | None = None
        # In one attribute, so that no interruption comes between writing a part and dropping it.
        self._recorded: tuple[tuple[Path, ...], list[Visit]] = (), []

    def __len__(self) -> int:
        """Number of visits recorded so far."""
        parts, visits = self._recorded
        return PART * len(parts) + len(visits)

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
        if len(self._recorded[1]) >= PART:  # those have ended; the one that is added may be cut
            self._write_part()
        self._recorded[1].append(
            Visit(
                sequence,
                access,
                lookahead,
                predictions,
                tokens,
                needs,
                router if self.keeps_router else None,
            )
        )

    def cut(self, count: int) -> None:
        """Keep only the first `count` visits: all, or all but the last one."""
        parts, visits = self._recorded
        del visits[count - PART * len(parts) :]

    def _write_part(self) -> None:
        parts, visits = self._recorded
        if self._parts is None:
            self._parts = TemporaryDirectory(prefix=".trace.", suffix=".part", dir=self.folder)
        path = Path(self._parts.name) / f"{len(parts)}.parquet"
        write_trace(_columns(self.geometry, visits[:PART], self.about), path)
        self._recorded = (*parts, path), visits[PART:]

    def trace(self, provenance: dict[str, Any]) -> Trace:
        """Return everything recorded so far, in memory."""
        recorded = self.recording(provenance)
        return recorded if isinstance(recorded, Trace) else recorded.select(slice(None))

    def recording(self, provenance: dict[str, Any]) -> Trace | TraceStream:
        """Return everything recorded so far; as a stream where parts of it are in files.

        A stream can be read as long as the recorder is there.
        """
        count, about = len(self), self.about | provenance
        resets = tuple(sorted(each for each in self.resets if each < count))
        parts, visits = self._recorded
        if not parts:
            trace = _columns(self.geometry, visits, about)
            trace.resets = resets
            return trace
        assert self._parts is not None
        rest = Path(self._parts.name) / "rest.parquet"
        if visits:
            write_trace(_columns(self.geometry, visits, self.about), rest)
        stream, _ = open_stream([*parts, rest][: len(parts) + bool(visits)], parts=True)
        stream.provenance, stream.resets, stream.owner = about, resets, self
        return stream


def _columns(geometry: Geometry, visits: list[Visit], provenance: dict[str, Any]) -> Trace:
    """Return visits as a trace."""
    width, accesses = geometry.experts, [visit.access for visit in visits]
    offsets = np.zeros(len(accesses) + 1, np.int64)
    np.cumsum([len(access.experts) for access in accesses], out=offsets[1:])
    lookahead = np.full((len(accesses), DEPTHS * width), nan, np.float32)
    for row, visit in zip(lookahead, visits, strict=True):
        for depth, scores in enumerate(visit.lookahead):
            row[depth * width : (depth + 1) * width] = scores
    size = -(-geometry.intermediate // 8)
    rows = [
        [None if need is None else need.to_bytes(size, "little") for need in visit.needs]
        for visit in visits
    ]
    scored = bool(accesses) and all(access.scores for access in accesses)
    tokens = [visit.tokens for visit in visits]
    router = [visit.router for visit in visits if visit.router is not None]
    return Trace(
        geometry=geometry,
        sequence=np.asarray([visit.sequence for visit in visits], np.int32),
        position=np.asarray([access.position for access in accesses], np.int32),
        layer=np.asarray([access.layer for access in accesses], np.int16),
        prefill=np.asarray([access.phase == PREFILL for access in accesses], np.bool_),
        experts=np.asarray([i for a in accesses for i in a.experts], np.uint16),
        offsets=offsets,
        scores=np.asarray([a.scores for a in accesses], np.float32) if scored else None,
        lookahead=lookahead if any(visit.lookahead for visit in visits) else None,
        predictions=[list(visit.predictions) for visit in visits],
        rows=rows if any(visit.needs for visit in visits) else None,
        provenance=provenance,
        tokens=None if None in tokens else np.asarray(tokens, np.int32),
        router=router if visits and len(router) == len(visits) else None,
    )
