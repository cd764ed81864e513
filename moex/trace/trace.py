"""A trace in memory: the columns of one recorded run. The file format is in `format.py`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from moex.trace.validity import DEPTHS, check
from moex.types import DECODE, PREFILL, Access, Future, Geometry, Prediction

if TYPE_CHECKING:
    from collections.abc import Iterator

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

    `offsets[i]:offsets[i + 1]` delimits visit i's experts in `experts`.

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
    router: list[RouterRows] | None = None

    def __post_init__(self) -> None:
        check(self)

    def __len__(self) -> int:
        """Number of layer visits."""
        return len(self.layer)

    def accesses(self) -> Iterator[Access]:
        """Yield the visits in order; `clock` is the row number."""
        experts, offsets = self.experts.tolist(), self.offsets.tolist()
        rows = self.scores
        columns = zip(
            self.position.tolist(), self.layer.tolist(), self.prefill.tolist(), strict=True
        )
        for clock, (position, layer, prefill) in enumerate(columns):
            yield Access(
                clock,
                position,
                layer,
                PREFILL if prefill else DECODE,
                tuple(experts[offsets[clock] : offsets[clock + 1]]),
                () if rows is None else tuple(rows[clock].tolist()),
            )

    def names(self) -> NDArray[np.int64]:
        """Return the expert of every access as `layer * experts + index` [accesses]."""
        layers = np.repeat(self.layer.astype(np.int64), np.diff(self.offsets))
        return layers * self.geometry.experts + self.experts

    def lookahead_rows(self, clock: int) -> tuple[tuple[float, ...], ...]:
        """Return a visit's scores of the next layers' experts, as `Observation.lookahead`."""
        if self.lookahead is None:
            return ()
        rows = self.lookahead[clock].reshape(DEPTHS, -1)
        return tuple(tuple(row) for row in rows.tolist() if row[0] == row[0])  # NaN: no such layer

    def tokens_of(self, prefill: bool) -> int:
        """Return the tokens of all prompt or all decoding passes; one a pass if not recorded."""
        passes = (self.layer == 0) & (self.prefill == prefill)
        return int(passes.sum() if self.tokens is None else self.tokens[passes].sum())

    def needs(self, clock: int) -> list[int | None]:
        """Return the bitmap of rows that each expert of a visit needed; None for all rows."""
        assert self.rows is not None
        return [
            None if each is None else int.from_bytes(each, "little") for each in self.rows[clock]
        ]

    def future(self) -> Future:
        """Return when each expert is demanded, for oracles."""
        return Future(self.accesses())

    def select(self, visits: slice) -> Trace:
        """Return the given visits as a trace of their own."""
        start, stop, _ = visits.indices(len(self))
        offsets = self.offsets[start : stop + 1]
        return Trace(
            self.geometry,
            self.sequence[start:stop],
            self.position[start:stop],
            self.layer[start:stop],
            self.prefill[start:stop],
            self.experts[offsets[0] : offsets[-1]],
            offsets - offsets[0],
            None if self.scores is None else self.scores[start:stop],
            None if self.lookahead is None else self.lookahead[start:stop],
            None if self.predictions is None else self.predictions[start:stop],
            None if self.rows is None else self.rows[start:stop],
            self.provenance,
            None if self.tokens is None else self.tokens[start:stop],
            tuple(reset - start for reset in self.resets if start < reset < stop),
            None if self.router is None else self.router[start:stop],
        )
