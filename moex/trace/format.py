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

The schema's metadata holds one JSON object under `moex`: `schema`, `geometry`, `provenance`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from moex.files import whole
from moex.types import DECODE, PREFILL, Access, Expert, Future, Geometry, Prediction

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

SCHEMA = 1
DEPTHS = 3


@dataclass
class Trace:
    """Columns of a recorded run; see the module's docstring for their meaning.

    `offsets[i]:offsets[i + 1]` delimits visit i's experts in `experts`, and likewise
    `prediction_offsets` its rows in `predictions` (layer, index, score).
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

    def __post_init__(self) -> None:
        count, limit = len(self.layer), self.geometry.experts
        if len(self.offsets) != count + 1 or self.offsets[-1] != len(self.experts):
            raise ValueError("trace: the columns disagree about the number of visits")
        if len(self.experts) and int(self.experts.max()) >= limit:
            raise ValueError(f"trace: expert {self.experts.max()} named, but a layer has {limit}")
        if count and not 0 <= self.layer.min() <= self.layer.max() < self.geometry.layers:
            raise ValueError(
                f"trace: layers {self.layer.min()} to {self.layer.max()} named, "
                f"but the geometry has {self.geometry.layers}"
            )

    def __len__(self) -> int:
        """Number of layer visits."""
        return len(self.layer)

    def accesses(self) -> Iterator[Access]:
        """Yield the visits in order; `clock` is the row number."""
        experts, offsets = self.experts.tolist(), self.offsets.tolist()
        rows = self.scores if self.scores is not None else None
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

    def lookahead_rows(self, clock: int) -> tuple[tuple[float, ...], ...]:
        """Scores of the next layers' experts as a live run's observation holds them."""
        if self.lookahead is None:
            return ()
        rows = self.lookahead[clock].reshape(DEPTHS, -1)
        return tuple(tuple(row) for row in rows.tolist() if row[0] == row[0])  # NaN: no such layer

    def tokens_of(self, prefill: bool) -> int:
        """Tokens of all prompt passes or of all decoding passes; one a pass where not recorded."""
        passes = (self.layer == 0) & (self.prefill == prefill)
        return int(passes.sum() if self.tokens is None else self.tokens[passes].sum())

    def needs(self, clock: int) -> list[int | None]:
        """The rows that each expert of a visit needed, as integers; None for all."""
        assert self.rows is not None
        return [
            None if each is None else int.from_bytes(each, "little") for each in self.rows[clock]
        ]

    def future(self) -> Future:
        """When each expert is demanded, for oracles."""
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
        )


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


def read_trace(path: str | Path) -> Trace:
    """Read a trace.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a trace, cut short, or of another schema.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    record = "record one with: python run.py mode=live (it writes results/<run_id>/trace.parquet)"
    if not path.is_file():
        raise FileNotFoundError(f"trace={path}: no such file; {record}")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"trace={path}: not a whole parquet file ({error}); {record}") from error
    header = json.loads((table.schema.metadata or {}).get(b"moex", b"{}"))
    if header.get("schema") != SCHEMA:
        given = header.get("schema", "none")
        raise ValueError(f"trace={path}: schema {given}, this moex reads {SCHEMA}; {record}")
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
    )
