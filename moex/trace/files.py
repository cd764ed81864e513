"""Opens the files of a trace: whole, or as a stream where they would not fit in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from moex.paths import trace_files
from moex.trace.format import KINDS, missing, read_header, read_trace, refused, torn
from moex.trace.router_rows import PREFIX
from moex.trace.stream import HELD, READING, File, TraceStream
from moex.trace.trace import Trace, joined
from moex.trace.validity import check_resets

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

IN_MEMORY = 1 << 30
"""Most bytes, as a replay needs them, of a trace that is read whole."""
COSTS = {"experts": 40, "predictions": 100, "rows": 100}
"""Bytes in memory of a number in these columns, roughly; 8 of all others."""
FILLED = frozenset({"lookahead", "rows", "predictions.rows"})


def open_trace(
    given: str | Path | Sequence[str | Path], field: str = "trace", in_memory: int | None = None
) -> Trace | TraceStream:
    """Open one file, or several as one trace: in memory if it is small enough, else as a stream.

    The sequences of several files are renumbered; one file begins where the one before ends.

    Args:
        given: a file, the name of a bundled trace, a pattern (`run-*.parquet`), or a list of them.
        field: the setting that names the files, for messages.
        in_memory: most bytes of a trace that is read whole; default `IN_MEMORY`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no trace, or files of different geometry or settings.
    """
    paths = trace_files(given)
    for path in paths:
        missing(path, field)
    stream, size = open_stream(paths, field)
    if size > (IN_MEMORY if in_memory is None else in_memory):
        return stream
    return read_trace(paths[0], field) if len(paths) == 1 else joined(stream.chunks())


def open_stream(
    paths: Sequence[Path], field: str = "trace", parts: bool = False
) -> tuple[TraceStream, int]:
    """Open files as one stream; return it and the bytes that it would take in memory.

    Args:
        paths: of the files, in order.
        field: the setting that names the files, for messages.
        parts: whether the files are parts of one recording: sequences go on from one to the next,
            and a part without lookahead or rows has missing ones.
    """
    streams = [_open(path, field) for path in paths]
    first, size = streams[0][0], sum(each for _, _, each in streams)
    files: list[File] = []
    resets, begin, follows = [], 0, 0
    columns = first.columns
    for stream, (low, high), _ in streams:
        _same(first, stream)
        shift = 0 if parts or not files else follows - low
        follows = high + shift + 1
        files.append(replace(stream.files[0], shift=shift))
        resets += [begin + each for each in stream.resets]
        begin += len(stream)
        either = (columns | stream.columns) & FILLED if parts else frozenset()
        columns = (columns & stream.columns) | either
    accesses = sum(stream.accesses_count for stream, _, _ in streams)
    whole = replace(first, files=tuple(files), resets=tuple(resets), columns=columns)
    return replace(whole, accesses_count=accesses), size


def _open(path: Path, field: str) -> tuple[TraceStream, tuple[int, int], int]:
    """Return one file as a stream, its lowest and highest sequence, and its bytes in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    named = f"{field}={path}"
    try:
        with pq.ParquetFile(path, **READING) as file:
            known, metadata = file.metadata, file.schema_arrow.metadata
            values, columns = _values(known)
    except (pa.ArrowException, OSError) as error:
        raise torn(named, field, error) from error
    try:
        header = read_header(metadata)
        if not known.num_rows:
            raise ValueError("holds no visit; expected at least one")
        if header.get("visits", known.num_rows) != known.num_rows:
            told = f"holds {known.num_rows} visits; expected {header['visits']}, as it says"
            raise ValueError(told)
        check_resets(header.get("resets", ()), 0, known.num_rows)
    except ValueError as error:
        raise refused(named, field, error) from error
    given = header["geometry"], header["provenance"], tuple(header.get("resets", ()))
    stream = TraceStream(
        (File(path, known.num_rows, 0),), *given, columns, values.get("experts", 0), field
    )
    size = sum(COSTS.get(name, 8) * count for name, count in values.items())
    return stream, _sequences(stream, known), size


def _values(metadata: Any) -> tuple[dict[str, int], frozenset[str]]:
    """Return how many numbers each column of a file holds, and its optional columns."""
    values: dict[str, int] = {}
    leaves = set()
    for group in range(metadata.num_row_groups):
        for index in range(metadata.num_columns):
            column = metadata.row_group(group).column(index)
            name, *leaf = column.path_in_schema.split(".")
            values[name] = values.get(name, 0) + column.num_values
            leaves |= {name, f"{name}.{leaf[-1]}"} if leaf else {name}
    leaves |= {"router"} if any(name.startswith(PREFIX) for name in leaves) else set()
    return values, frozenset(leaves & {*HELD, "predictions.rows"})


def _sequences(stream: TraceStream, metadata: Any) -> tuple[int, int]:
    """Return the lowest and the highest sequence number of a file."""
    names = [metadata.schema.column(index).path for index in range(metadata.num_columns)]
    if "sequence" not in names:  # reading says so
        return 0, 0
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    known = [group.column(names.index("sequence")).statistics for group in groups]
    if all(each is not None and each.has_min_max for each in known):
        return min(each.min for each in known), max(each.max for each in known)
    numbers = [chunk.sequence for chunk in stream.chunks()]
    return int(min(each.min() for each in numbers)), int(max(each.max() for each in numbers))


def _same(first: TraceStream, other: TraceStream) -> None:
    """Check that a file can follow another in one trace.

    Raises:
        ValueError: names the difference.
    """
    named = f"{first.field}={other.files[0].path}"
    if first.geometry != other.geometry:
        ours, theirs = (
            f"{each.layers} layers x {each.experts} experts, top-{each.top_k}, of "
            f"{each.expert_bytes} bytes"
            for each in (first.geometry, other.geometry)
        )
        raise ValueError(
            f"{named}: recorded on {theirs}, but {first.files[0].path} on {ours}; expected files "
            f"of one geometry; try {named} alone"
        )
    for name in KINDS:
        before, after = first.provenance.get(name), other.provenance.get(name)
        if before != after:
            raise ValueError(
                f"{named}: recorded with {name}={after}, but {first.files[0].path} with "
                f"{before}; expected the same in all files of a trace; try {named} alone"
            )
