"""A trace larger than memory: read chunk after chunk, from one file or from several as one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from moex.trace.format import columns_of, refused, torn
from moex.trace.trace import CHUNK, OPTIONAL, Trace, joined
from moex.trace.validity import DEPTHS
from moex.types import Future, Geometry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from moex.types import Access

LONGEST_FUTURE = 1 << 27
"""Most accesses of a trace whose whole future is kept in memory, at 12 bytes each."""
READING: dict[str, Any] = {"memory_map": True, "pre_buffer": False}
READING |= {"page_checksum_verification": True}
HELD = ("tokens", *OPTIONAL)


@dataclass(frozen=True)
class File:
    """One parquet file of a stream: its visits, and what is added to its sequence numbers."""

    path: Path
    visits: int
    shift: int


@dataclass
class TraceStream:
    """A trace in files, of which one chunk at a time is in memory.

    `columns` are the optional ones that it has; a file that lacks one gives missing values.
    """

    files: tuple[File, ...]
    geometry: Geometry
    provenance: dict[str, Any]
    resets: tuple[int, ...]
    columns: frozenset[str]
    accesses_count: int
    field: str = "trace"
    owner: object = None
    """Whoever keeps the files, if they are temporary."""

    def __len__(self) -> int:
        """Number of layer visits."""
        return sum(file.visits for file in self.files)

    def has(self, column: str) -> bool:
        """Whether an optional column is there."""
        return column in self.columns

    @property
    def predicts_rows(self) -> bool:
        """Whether predictions name rows of experts."""
        return "predictions.rows" in self.columns

    def chunks(
        self, start: int = 0, stop: int | None = None, visits: int = CHUNK
    ) -> Iterator[Trace]:
        """Yield the visits from `start` to `stop` as traces of at most so many `visits`.

        A chunk keeps the clocks of its visits.

        Raises:
            ValueError: a row group is torn, or holds what no trace does.
        """
        for file, table, first in self._tables(start, stop, visits):
            try:
                yield self._chunk(file, table, first)
            except ValueError as error:
                why = ValueError(f"from visit {first} on: {str(error).removeprefix('trace: ')}")
                raise refused(f"{self.field}={file.path}", self.field, why) from error

    def accesses(self) -> Iterator[Access]:
        """Yield the visits in order; `clock` is the number of the visit."""
        for chunk in self.chunks():
            yield from chunk.accesses()

    def sequence_starts(self) -> NDArray[np.int64]:
        """Return the clocks of the first visits of all sequences but the first."""
        starts, before = [], None
        for file, table, first in self._tables(0, None, CHUNK, ["sequence"]):
            numbers = table.column("sequence").to_numpy() + file.shift
            before = numbers[0] if before is None else before
            starts.append(first + np.flatnonzero(np.diff(numbers, prepend=before)))
            before = numbers[-1]
        return np.concatenate(starts)

    def select(self, visits: slice) -> Trace:
        """Return the given visits, in memory, as a trace whose clocks start at 0."""
        start, stop, _ = visits.indices(len(self))
        part = joined(self.chunks(start, stop))
        return part.select(slice(None))

    def future(self) -> Future:
        """Return when each expert is demanded, for policies that know it.

        Raises:
            ValueError: that takes too much memory.
        """
        if self.accesses_count > LONGEST_FUTURE:
            raise ValueError(
                f"{self.field}: a policy that knows the future keeps all of it in memory, and this "
                f"trace has {self.accesses_count} accesses; expected at most {LONGEST_FUTURE}; "
                "try cache=lru"
            )
        return Future(self.accesses())

    def _tables(
        self, start: int, stop: int | None, visits: int, columns: list[str] | None = None
    ) -> Iterator[tuple[File, Any, int]]:
        """Yield (file, table, clock of its first visit) of every chunk."""
        begin, stop = 0, len(self) if stop is None else stop
        for file in self.files:
            low, high = max(0, start - begin), min(file.visits, stop - begin)
            if low < high:
                for table, visit in self._read(file, low, high, visits, columns):
                    yield file, table, begin + visit
            begin += file.visits

    def _read(
        self, file: File, start: int, stop: int, visits: int, columns: list[str] | None
    ) -> Iterator[tuple[Any, int]]:
        """Yield visits `start` to `stop` of a file as tables, and the number of their first."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with pq.ParquetFile(file.path, **READING) as opened:
            groups, end = opened.num_row_groups, 0
            for group in range(groups):
                visit, end = end, end + opened.metadata.row_group(group).num_rows
                if visit >= stop or end <= start:
                    continue
                try:
                    for batch in opened.iter_batches(visits, [group], columns):
                        low, high = max(0, start - visit), min(len(batch), stop - visit)
                        if low < high:
                            yield pa.Table.from_batches([batch[low:high]]), visit + low
                        visit += len(batch)
                except (pa.ArrowException, OSError) as error:
                    named = f"{self.field}={file.path}: row group {group + 1} of {groups}"
                    raise torn(named, self.field, error) from error

    def _chunk(self, file: File, table: Any, first: int) -> Trace:
        """Return a table as a trace, with the columns of this stream."""
        columns, count = columns_of(table, self.geometry), len(table)
        columns["sequence"] = columns["sequence"] + np.int32(file.shift)
        for name in HELD:
            if not self.has(name):
                columns[name] = None
        if self.has("lookahead") and columns["lookahead"] is None:
            width = DEPTHS * self.geometry.experts
            columns["lookahead"] = np.full((count, width), np.nan, np.float32)
        if self.has("rows") and columns["rows"] is None:
            columns["rows"] = [[None] * each for each in np.diff(columns["offsets"]).tolist()]
        clocks = range(first, first + count)
        resets = tuple(reset for reset in self.resets if reset in clocks)
        return Trace(
            self.geometry, **columns, provenance=self.provenance, resets=resets, first=first
        )
