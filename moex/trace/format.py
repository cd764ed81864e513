"""The file format of a trace: one run's routing, geometry and provenance, in one parquet file.

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
| lookahead | list<float32>[3 * experts], optional | scores of the next 3 layers; NaN: none |
| predictions | list<struct<layer, index, score, rows>>, optional | predictions of the run |
| rows | list<binary>, optional | rows that each of `experts` needed: a bitmap; null: all |
| router_* | five lists, optional | router rows of every token (`router_rows.py`) |

A bitmap of rows has a bit for each of an expert's neurons, lowest first; null is the whole expert.

The schema's metadata holds one JSON object under `moex`: `schema`, `geometry`, `provenance`, and
`resets` where the run was interrupted: visits (row numbers) before which the cache was emptied.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moex.runs.atomic import atomic_write
from moex.trace import router_rows
from moex.trace.columns import Columns
from moex.trace.trace import Trace as Trace
from moex.trace.validity import DEPTHS as DEPTHS
from moex.types import Geometry

if TYPE_CHECKING:
    from moex.types import Prediction

SCHEMA = 1
KINDS = {"quant": dict, "sparsity": dict, "cold": bool, "store": str, "overlaps": bool}
KINDS |= {"predictor_bytes": int, "routing": dict}
"""Keys of the provenance that a replay reads, and their types."""


def write_trace(trace: Trace, path: str | Path) -> Path:
    """Write the trace atomically; return its path."""
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
    if trace.router is not None:
        columns |= router_rows.to_columns(trace.router)
    header = {
        "schema": SCHEMA,
        "geometry": trace.geometry._asdict(),
        "visits": len(trace),
        "provenance": trace.provenance,
    }
    if trace.resets:
        header["resets"] = trace.resets
    text = json.dumps(header, allow_nan=False)
    table = pa.table(columns).replace_schema_metadata({b"moex": text.encode()})
    with atomic_write(path) as partial:
        pq.write_table(table, partial, compression="zstd")
    return path


def _predictions(visits: list[list[Prediction]]) -> Any:
    """Return the column of predictions; with rows only if there are any."""
    import pyarrow as pa

    fields = [("layer", pa.int16()), ("index", pa.uint16()), ("score", pa.float32())]
    if any(p.rows is not None for visit in visits for p in visit):
        fields.append(("rows", pa.binary()))
    names = [name for name, _ in fields]
    rows = [[dict(zip(names, (*p.expert, *p[1:]), strict=False)) for p in v] for v in visits]
    return pa.array(rows, pa.list_(pa.struct(fields)))


def read_trace(path: str | Path, field: str = "trace") -> Trace:
    """Read a trace; `field` is the setting that names the file, for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a trace, truncated, of another schema, or with invalid columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, named = Path(path), f"{field}={path}"
    other = (
        f"try {field}=tiny, or record one: python run.py mode=live (it writes "
        "results/<run_id>/trace.parquet)"
    )
    if not path.is_file():
        raise FileNotFoundError(f"{named}: no such file; expected a recorded trace; {other}")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        why = f"not a whole parquet file ({error})"
        raise ValueError(f"{named}: {why}; expected a recorded trace; {other}") from error
    try:
        return _from_table(table)
    except ValueError as error:
        why = str(error).removeprefix("trace: ")
        raise ValueError(f"{named}: {why}; {other}") from error


def _from_table(table: Any) -> Trace:
    header = _header(table)
    columns = Columns(table)
    geometry = _geometry(header.get("geometry"))
    trace = Trace(
        geometry=geometry,
        sequence=columns.numbers("sequence", np.int32),
        position=columns.numbers("position", np.int32),
        layer=columns.numbers("layer", np.int16),
        prefill=columns.numbers("prefill", np.bool_),
        **columns.experts(),
        scores=columns.matrix("scores", geometry.experts),
        lookahead=columns.matrix("lookahead", DEPTHS * geometry.experts),
        predictions=columns.predictions(),
        rows=columns.rows(),
        provenance=header["provenance"],
        tokens=columns.numbers("tokens", np.int32) if "tokens" in table.column_names else None,
        resets=tuple(header.get("resets", ())),
        router=router_rows.from_table(table, geometry),
    )
    if not len(trace):
        raise ValueError("holds no visit; expected at least one")
    if header.get("visits", len(trace)) != len(trace):
        raise ValueError(f"holds {len(trace)} visits; expected {header['visits']}, as it says")
    return trace


def _header(table: Any) -> dict[str, Any]:
    """Return the JSON object under `moex` in the schema's metadata."""
    text = (table.schema.metadata or {}).get(b"moex")
    try:
        header = {} if text is None else json.loads(text, parse_constant=_no_number)
    except ValueError as error:
        raise ValueError(f"its header is not JSON ({error}); expected one object") from error
    given = header.get("schema", "none") if isinstance(header, dict) else "none"
    if given != SCHEMA:
        raise ValueError(f"schema {given}; expected {SCHEMA}, which this moex reads")
    provenance = header.get("provenance")
    if not isinstance(provenance, dict):
        raise ValueError("its header has no provenance; expected an object")
    for name, kind in KINDS.items():
        if type(given := provenance.get(name)) not in (kind, type(None)):
            raise ValueError(f"its provenance has {name}={given}; expected {kind.__name__} or null")
    return dict(header)


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _geometry(given: Any) -> Geometry:
    if not isinstance(given, dict) or set(given) != {*Geometry._fields}:
        raise ValueError(f"its geometry is {given}; expected {', '.join(Geometry._fields)}")
    geometry = Geometry(**given)
    geometry.check("geometry")  # it gives the widths of columns
    return geometry
