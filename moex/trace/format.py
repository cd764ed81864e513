"""A trace: one recorded routing, with its geometry and provenance, in one parquet file.

One row a layer visit, in the order of the run (the row number is the visit's clock):

| column | type | meaning |
|---|---|---|
| sequence | int32 | which prompt or conversation the visit belongs to |
| position | int32 | index of the pass's first token in its sequence |
| layer | int16 | MoE layer, counted from 0 |
| prefill | bool | true in a prompt pass, false when decoding |
| tokens | int32, optional | tokens of the visit: all those of the batch; absent: unknown |
| experts | list<uint16> | distinct demanded experts, in top-k order |
| scores | list<float32>[experts], optional | router softmax summed over the visit's tokens |
| lookahead | list<float32>[3 * experts], optional | so of the next 3 layers; NaN: none |
| predictions | list<struct<layer, index, score, rows>>, optional | what the run's prefetcher said |
| rows | list<binary>, optional | rows that each of `experts` needed: a bitmap; null: all |

A bitmap of rows has a bit for each of an expert's neurons, lowest first; null is the whole expert.

The schema's metadata holds one JSON object under `moex`: `schema`, `geometry`, `provenance`, and
`resets` where the run was interrupted: visits (row numbers) before which the cache was emptied.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from moex.files import whole
from moex.trace.trace import DEPTHS as DEPTHS
from moex.trace.trace import Trace as Trace
from moex.types import Expert, Geometry, Prediction

SCHEMA = 1


def write_trace(trace: Trace, path: str | Path) -> Path:
    """Write the trace whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    columns: dict[str, Any] = {
        "sequence": pa.array(trace.sequence),
        "position": pa.array(trace.position),
        "layer": pa.array(trace.layer),
        "prefill": pa.array(trace.prefill),
        "experts": pa.ListArray.from_arrays(
            pa.array(trace.offsets, pa.int32()), pa.array(trace.experts)
        ),
    }
    if trace.tokens is not None:
        columns["tokens"] = pa.array(trace.tokens)
    for name in ("scores", "lookahead"):
        values = getattr(trace, name)
        if values is not None:
            flat = pa.array(values.reshape(-1), pa.float32())
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    if trace.predictions is not None:
        columns["predictions"] = _predictions(trace.predictions)
    if trace.rows is not None:
        columns["rows"] = pa.array(trace.rows, pa.list_(pa.binary()))
    header = {
        "schema": SCHEMA,
        "geometry": trace.geometry._asdict(),
        "visits": len(trace),
        "provenance": trace.provenance,
    }
    if trace.resets:
        header["resets"] = trace.resets
    table = pa.table(columns).replace_schema_metadata({b"moex": json.dumps(header).encode()})
    with whole(path) as partial:
        pq.write_table(table, partial, compression="zstd")
    return path


def _predictions(said: list[list[Prediction]]) -> Any:
    """The column of predictions; rows only where there are any."""
    import pyarrow as pa

    fields = [("layer", pa.int16()), ("index", pa.uint16()), ("score", pa.float32())]
    if any(p.rows is not None for row in said for p in row):
        fields.append(("rows", pa.binary()))
    names = [name for name, _ in fields]
    rows = [[dict(zip(names, (*p.expert, *p[1:]), strict=False)) for p in row] for row in said]
    return pa.array(rows, pa.list_(pa.struct(fields)))


def read_trace(path: str | Path, field: str = "trace") -> Trace:
    """Read a trace, which the setting `field` names.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a trace, cut short, or of another schema.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, named = Path(path), f"{field}={path}"
    record = "record one with: python run.py mode=live (it writes results/<run_id>/trace.parquet)"
    if not path.is_file():
        raise FileNotFoundError(f"{named}: no such file; {record}")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{named}: not a whole parquet file ({error}); {record}") from error
    header = json.loads((table.schema.metadata or {}).get(b"moex", b"{}"))
    if header.get("schema") != SCHEMA:
        given = header.get("schema", "none")
        raise ValueError(f"{named}: schema {given}, this moex reads {SCHEMA}; {record}")
    return _from_table(table, header)


def _from_table(table: Any, header: dict[str, Any]) -> Trace:
    def column(name: str, kind: Any) -> Any:
        return table.column(name).to_numpy().astype(kind, copy=False)

    def lists(name: str) -> Any:
        return table.column(name).combine_chunks()

    def matrix(name: str) -> Any:
        if name not in table.column_names:
            return None
        return lists(name).flatten().to_numpy().reshape(len(table), -1)

    predictions = None
    if "predictions" in table.column_names:
        predictions = [
            [Prediction(Expert(p["layer"], p["index"]), p["score"], p.get("rows")) for p in row]
            for row in table.column("predictions").to_pylist()
        ]
    experts = lists("experts")
    return Trace(
        geometry=Geometry(**header["geometry"]),
        sequence=column("sequence", np.int32),
        position=column("position", np.int32),
        layer=column("layer", np.int16),
        prefill=column("prefill", np.bool_),
        experts=experts.flatten().to_numpy(),
        offsets=experts.offsets.to_numpy().astype(np.int64),
        scores=matrix("scores"),
        lookahead=matrix("lookahead"),
        predictions=predictions,
        rows=table.column("rows").to_pylist() if "rows" in table.column_names else None,
        provenance=header["provenance"],
        tokens=column("tokens", np.int32) if "tokens" in table.column_names else None,
        resets=tuple(header.get("resets", ())),
    )
