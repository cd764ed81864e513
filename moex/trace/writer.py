"""Writes traces: row group after row group, so that a trace need not fit in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moex.runs.atomic import atomic_write
from moex.trace import router_rows
from moex.trace.validity import DEPTHS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from moex.trace.stream import TraceStream
    from moex.trace.trace import Trace
    from moex.types import Geometry

SCHEMA = 1

GROUP_BYTES = 1 << 26
"""Most bytes of scores and lookahead in a row group."""
GROUP_VISITS = 1 << 17
"""Most visits of a row group."""


def write_trace(trace: Trace | TraceStream, path: str | Path) -> Path:
    """Write the trace atomically; return its path."""
    optional = {
        name for name in ("tokens", "scores", "lookahead", "rows", "router") if trace.has(name)
    }
    if trace.has("predictions"):
        optional |= {"predictions"} | ({"predictions.rows"} if trace.predicts_rows else set())
    width = trace.geometry.experts * (trace.has("scores") + DEPTHS * trace.has("lookahead"))
    visits = max(1, min(GROUP_VISITS, GROUP_BYTES // (4 * width + 1)))
    header = {"visits": len(trace), "provenance": trace.provenance}
    if trace.resets:
        header["resets"] = trace.resets
    return write_chunks(trace.chunks(visits=visits), path, trace.geometry, header, optional)


def write_chunks(
    chunks: Iterable[Trace],
    path: str | Path,
    geometry: Geometry,
    header: dict[str, Any],
    optional: Iterable[str] = (),
) -> Path:
    """Write consecutive chunks as one trace, a row group each, atomically; return its path.

    Args:
        chunks: of one trace; only one at a time is in memory.
        path: of the file.
        geometry: of all chunks.
        header: `provenance`, and `visits` and `resets` where they are known.
        optional: which of `OPTIONAL`, `tokens` and `predictions.rows` are written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, held = Path(path), frozenset(optional)
    text = json.dumps({"schema": SCHEMA, "geometry": geometry._asdict(), **header}, allow_nan=False)
    schema = _schema(geometry.experts, held).with_metadata({b"moex": text.encode()})
    with (
        atomic_write(path) as partial,
        pq.ParquetWriter(partial, schema, compression="zstd", write_page_checksum=True) as file,
    ):
        for chunk in chunks:
            rows = router_rows.to_columns(chunk.router) if chunk.router else {}
            columns = [rows[f.name] if f.name in rows else _column(chunk, f) for f in schema]
            file.write_table(pa.Table.from_arrays(columns, schema=schema), len(chunk))
    return path


def _schema(experts: int, held: frozenset[str]) -> Any:
    import pyarrow as pa

    predicted = [("layer", pa.int16()), ("index", pa.uint16()), ("score", pa.float32())]
    if "predictions.rows" in held:
        predicted.append(("rows", pa.binary()))
    required = [
        ("sequence", pa.int32()),
        ("position", pa.int32()),
        ("layer", pa.int16()),
        ("prefill", pa.bool_()),
        ("experts", pa.list_(pa.uint16())),
    ]
    others = [
        ("tokens", pa.int32()),
        ("scores", pa.list_(pa.float32(), experts)),
        ("lookahead", pa.list_(pa.float32(), DEPTHS * experts)),
        ("predictions", pa.list_(pa.struct(predicted))),
        ("rows", pa.list_(pa.binary())),
    ]
    held_columns = [each for each in others if each[0] in held]
    return pa.schema(required + held_columns + (router_rows.fields() if "router" in held else []))


def _column(chunk: Trace, field: Any) -> Any:
    """Return one column of a chunk as an arrow array."""
    import pyarrow as pa

    values = getattr(chunk, field.name)
    if field.name == "experts":
        offsets = pa.array(chunk.offsets, pa.int32())  # of a chunk they fit, whatever the trace's
        return pa.ListArray.from_arrays(offsets, pa.array(values))
    if field.name in ("scores", "lookahead"):
        flat = pa.array(values.reshape(-1), pa.float32())
        return pa.FixedSizeListArray.from_arrays(flat, field.type.list_size)
    if field.name == "predictions":
        names = [each.name for each in field.type.value_type]
        values = [[dict(zip(names, (*p.expert, *p[1:]), strict=False)) for p in v] for v in values]
    return pa.array(values, field.type)
