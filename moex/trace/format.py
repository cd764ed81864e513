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
from typing import Any

import numpy as np

from moex.trace import router_rows
from moex.trace.columns import Columns
from moex.trace.trace import Trace as Trace
from moex.trace.validity import DEPTHS as DEPTHS
from moex.trace.writer import SCHEMA
from moex.trace.writer import write_trace as write_trace
from moex.types import Geometry

KINDS = {"quant": dict, "sparsity": dict, "cold": bool, "store": str, "overlaps": bool}
KINDS |= {"predictor_bytes": int, "routing": dict}
"""Keys of the provenance that a replay reads, and their types."""


def read_trace(path: str | Path, field: str = "trace") -> Trace:
    """Read a whole trace into memory; `field` is the setting that names the file, for messages.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a trace, truncated, of another schema, or with invalid columns.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path, named = Path(path), f"{field}={path}"
    missing(path, field)
    try:
        table = pq.read_table(path, memory_map=True, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise torn(named, field, error) from error
    try:
        trace = _from_table(table)
    except ValueError as error:
        raise refused(named, field, error) from error
    return trace


def advice(field: str) -> str:
    """Return what to type instead of a file that is no trace."""
    return (
        f"try {field}=tiny, or record one: python run.py mode=live (it writes "
        "results/<run_id>/trace.parquet)"
    )


def missing(path: Path, field: str) -> None:
    """Raise an error if there is no such file.

    Raises:
        FileNotFoundError: there is none.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{field}={path}: no such file; expected a recorded trace; {advice(field)}"
        )


def torn(named: str, field: str, error: Exception) -> ValueError:
    """Return the error of a file, or a part of one, that cannot be read."""
    why = f"not a whole parquet file ({' '.join(str(error).split())})"
    return ValueError(f"{named}: {why}; expected a recorded trace; {advice(field)}")


def refused(named: str, field: str, error: ValueError) -> ValueError:
    """Return the error of a file that is read, but holds no trace."""
    return ValueError(f"{named}: {str(error).removeprefix('trace: ')}; {advice(field)}")


def _from_table(table: Any) -> Trace:
    header = read_header(table.schema.metadata)
    geometry = header["geometry"]
    resets, provenance = tuple(header.get("resets", ())), header["provenance"]
    trace = Trace(geometry, **columns_of(table, geometry), provenance=provenance, resets=resets)
    if not len(trace):
        raise ValueError("holds no visit; expected at least one")
    if header.get("visits", len(trace)) != len(trace):
        raise ValueError(f"holds {len(trace)} visits; expected {header['visits']}, as it says")
    return trace


def columns_of(table: Any, geometry: Geometry) -> dict[str, Any]:
    """Return the columns of a parquet table as those of a trace; None for those it lacks.

    Raises:
        ValueError: a column is missing, of another type, or has nulls.
    """
    columns = Columns(table)
    return {
        "sequence": columns.numbers("sequence", np.int32),
        "position": columns.numbers("position", np.int32),
        "layer": columns.numbers("layer", np.int16),
        "prefill": columns.numbers("prefill", np.bool_),
        **columns.experts(),
        "scores": columns.matrix("scores", geometry.experts),
        "lookahead": columns.matrix("lookahead", DEPTHS * geometry.experts),
        "predictions": columns.predictions(),
        "rows": columns.rows(),
        "tokens": columns.numbers("tokens", np.int32) if "tokens" in table.column_names else None,
        "router": router_rows.from_table(table, geometry),
    }


def read_header(metadata: Any) -> dict[str, Any]:
    """Return the JSON object under `moex` in a schema's metadata, with its geometry as such.

    Raises:
        ValueError: there is none, or it lacks what a replay needs.
    """
    text = (metadata or {}).get(b"moex")
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
    return {**header, "geometry": _geometry(header.get("geometry"))}


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _geometry(given: Any) -> Geometry:
    if not isinstance(given, dict) or set(given) != {*Geometry._fields}:
        raise ValueError(f"its geometry is {given}; expected {', '.join(Geometry._fields)}")
    geometry = Geometry(**given)
    geometry.check("geometry")  # it gives the widths of columns
    return geometry
