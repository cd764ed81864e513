"""A trace in memory: the columns of one recorded run. The file format is in `format.py`."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from moex.trace.validity import DEPTHS, check
from moex.types import DECODE, PREFILL, Access, Future, Geometry, Prediction

CHUNK = 1 << 16
"""Visits of a chunk, unless its reader asks for another number."""

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

    from moex.trace.router_rows import RouterRows


def following(names: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the position of every name's next occurrence, -1 if there is none [names]."""
    after = np.full(len(names), -1, np.int64)
    order = np.argsort(names, kind="stable")
    same = names[order[1:]] == names[order[:-1]]
    after[order[:-1][same]] = order[1:][same]
    return after


@dataclass
class Trace:
    """Columns of a recorded run; `format.py` defines them.

    `offsets[i]:offsets[i + 1]` delimits visit i's experts in `experts`. A chunk of a longer trace
    keeps its clocks: `first` is the clock of its first visit, and `resets` are clocks, too.

    Raises:
        ValueError: columns that are no valid recording.
    """

    geometry: Geometry
    sequence: NDArray[np.int32]
    position: NDArray[np.int32]
    layer: NDArray[np.int16]
    prefill: NDArray[np.bool_]
    experts: NDArray[np.uint16]
    offsets: NDArray[np.int64]
    scores: NDArray[np.float32] | None = None
    lookahead: NDArray[np.float32] | None = None
    predictions: list[list[Prediction]] | None = None
    rows: list[list[bytes | None]] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    tokens: NDArray[np.int32] | None = None
    resets: tuple[int, ...] = ()
    first: int = 0
    router: list[RouterRows] | None = None

    def __post_init__(self) -> None:
        check(self)

    def __len__(self) -> int:
        """Number of layer visits."""
        return len(self.layer)

    def has(self, column: str) -> bool:
        """Whether an optional column is there."""
        return getattr(self, column) is not None

    @property
    def predicts_rows(self) -> bool:
        """Whether predictions name rows of experts."""
        return any(each.rows is not None for row in self.predictions or () for each in row)

    def chunks(
        self, start: int = 0, stop: int | None = None, visits: int = CHUNK
    ) -> Iterator[Trace]:
        """Yield the visits from `start` to `stop` as traces of at most so many `visits`.

        A chunk has the columns of this trace as numpy arrays, and keeps the clocks of its visits.
        """
        stop = len(self) if stop is None else min(stop, len(self))
        for begin in range(start, stop, visits):
            yield self._part(begin, min(stop, begin + visits))

    @property
    def accesses_count(self) -> int:
        """Number of accesses: experts demanded, summed over visits."""
        return len(self.experts)

    def sequence_starts(self) -> NDArray[np.int64]:
        """Return the clocks of the first visits of all sequences but the first."""
        return np.flatnonzero(self.sequence[1:] != self.sequence[:-1]) + 1 + self.first

    def accesses(self) -> Iterator[Access]:
        """Yield the visits in order; `clock` is the row number."""
        experts, offsets = self.experts.tolist(), self.offsets.tolist()
        rows = self.scores
        columns = zip(
            self.position.tolist(), self.layer.tolist(), self.prefill.tolist(), strict=True
        )
        for visit, (position, layer, prefill) in enumerate(columns):
            yield Access(
                self.first + visit,
                position,
                layer,
                PREFILL if prefill else DECODE,
                tuple(experts[offsets[visit] : offsets[visit + 1]]),
                () if rows is None else tuple(rows[visit].tolist()),
            )

    def names(self) -> NDArray[np.int64]:
        """Return the expert of every access as `layer * experts + index` [accesses]."""
        layers = np.repeat(self.layer.astype(np.int64), np.diff(self.offsets))
        return layers * self.geometry.experts + self.experts

    def lookahead_rows(self, clock: int) -> tuple[tuple[float, ...], ...]:
        """Return a visit's scores of the next layers' experts, as `Observation.lookahead`."""
        if self.lookahead is None:
            return ()
        rows = self.lookahead[clock - self.first].reshape(DEPTHS, -1)
        return tuple(tuple(row) for row in rows.tolist() if row[0] == row[0])  # NaN: no such layer

    def tokens_of(self, prefill: bool) -> int:
        """Return the tokens of all prompt or all decoding passes; one a pass if not recorded."""
        passes = (self.layer == 0) & (self.prefill == prefill)
        return int(passes.sum() if self.tokens is None else self.tokens[passes].sum())

    def needs(self, clock: int) -> list[int | None]:
        """Return the bitmap of rows that each expert of a visit needed; None for all rows."""
        assert self.rows is not None
        rows = self.rows[clock - self.first]
        return [None if each is None else int.from_bytes(each, "little") for each in rows]

    def future(self) -> Future:
        """Return when each expert is demanded, for oracles."""
        return Future(self.accesses())

    def select(self, visits: slice) -> Trace:
        """Return the given visits as a trace of their own, whose clocks start at 0."""
        start, stop, _ = visits.indices(len(self))
        part = self._part(start, stop)
        part.resets = tuple(reset - part.first for reset in part.resets if reset > part.first)
        part.first = 0
        return part

    def _part(self, start: int, stop: int) -> Trace:
        """Return visits `start` to `stop`, which were checked with all others."""
        part, offsets = copy(self), self.offsets[start : stop + 1]
        for name in ("sequence", "position", "layer", "prefill", "tokens", *OPTIONAL):
            if (column := getattr(self, name)) is not None:
                setattr(part, name, column[start:stop])
        part.experts = self.experts[offsets[0] : offsets[-1]]
        part.offsets = offsets - offsets[0]
        part.first = self.first + start
        clocks = range(part.first, self.first + stop)
        part.resets = tuple(reset for reset in self.resets if reset in clocks)
        return part


OPTIONAL = ("scores", "lookahead", "predictions", "rows", "router")
"""Columns that a trace may lack; `tokens`, too."""


def joined(chunks: Iterable[Trace]) -> Trace:
    """Return consecutive chunks as one trace, whose clocks start at those of the first."""
    parts = list(chunks)
    whole, lengths = copy(parts[0]), [len(part.experts) for part in parts]
    names = ("sequence", "position", "layer", "prefill", "experts", "scores", "lookahead", "tokens")
    for name in names:
        if getattr(whole, name) is not None:
            setattr(whole, name, np.concatenate([getattr(part, name) for part in parts]))
    for name in ("predictions", "rows", "router"):
        if getattr(whole, name) is not None:
            setattr(whole, name, [row for part in parts for row in getattr(part, name)])
    shifts = np.cumsum([0, *lengths[:-1]])
    starts = [part.offsets[:-1] + shift for part, shift in zip(parts, shifts, strict=True)]
    whole.offsets = np.append(np.concatenate(starts), sum(lengths))
    whole.resets = tuple(reset for part in parts for reset in part.resets)
    return whole
