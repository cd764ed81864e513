"""What the router of a visit said, token by token, and which experts were then asked for.

Recorded by runs with a routing policy (`moex/routing`), so that a replay takes the same choices.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray  # noqa: TC002 - a NamedTuple's annotations are its fields

if TYPE_CHECKING:
    from moex.types import Geometry

PREFIX = "router_"
"""Of the names of the columns, one for every field of `RouterRows`."""


class RouterRows(NamedTuple):
    """The rows of one visit.

    Args:
        logits: what the router ranks by, mostly raw logits, float32 [tokens, experts].
        index: the model's own choice, int64 [tokens, k].
        weights: the model's own weights of it, float32 [tokens, k].
        padding: which tokens are padding, bool [tokens].
        final: the experts that were asked for, int64 [tokens, k]; -1: none.
    """

    logits: NDArray[np.float32]
    index: NDArray[np.int64]  # type: ignore[assignment]  # hides tuple.index, never called
    weights: NDArray[np.float32]
    padding: NDArray[np.bool_]
    final: NDArray[np.int64]


KINDS: dict[str, Any] = {
    "logits": np.float32,
    "index": np.int32,
    "weights": np.float32,
    "padding": np.bool_,
    "final": np.int32,
}
"""The types of the columns."""


def fields() -> list[tuple[str, Any]]:
    """Return names and types of the columns of a parquet table."""
    import pyarrow as pa

    return [(PREFIX + n, pa.large_list(pa.from_numpy_dtype(kind))) for n, kind in KINDS.items()]


def to_columns(visits: list[RouterRows]) -> dict[str, Any]:
    """Return the columns of a parquet table: in each, a flat list for every visit."""
    import pyarrow as pa

    columns = {}
    for name, kind in KINDS.items():
        flat = [getattr(rows, name).astype(kind).reshape(-1) for rows in visits]
        offsets = np.zeros(len(flat) + 1, np.int64)
        np.cumsum([len(each) for each in flat], out=offsets[1:])
        values = pa.array(np.concatenate(flat) if flat else np.zeros(0, kind))
        columns[PREFIX + name] = pa.LargeListArray.from_arrays(pa.array(offsets), values)
    return columns


def from_table(table: Any, geometry: Geometry) -> list[RouterRows] | None:
    """Read the columns of a parquet table; None without them.

    Raises:
        ValueError: a column is missing, or its lists do not fit the others.
    """
    if not any(name.startswith(PREFIX) for name in table.column_names):
        return None
    parts: list[list[NDArray[Any]]] = []
    for name, kind in KINDS.items():
        if PREFIX + name not in table.column_names:
            raise ValueError(f"has router rows, but no column {PREFIX}{name}; expected it, too")
        column = table.column(PREFIX + name).combine_chunks()
        flat = _flat(name, column).to_numpy(zero_copy_only=False).astype(kind, copy=False)
        offsets = column.offsets.to_numpy()
        parts.append(np.split(flat, (offsets[1:-1] - offsets[0]).tolist()))
    return [_visit(visit, each, geometry) for visit, each in enumerate(zip(*parts, strict=True))]


def _flat(name: str, column: Any) -> Any:
    import pyarrow as pa

    listed = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    flat = column.flatten() if listed and not column.null_count else None
    alike = {"padding": pa.types.is_boolean}.get(name, pa.types.is_primitive)
    if flat is None or flat.null_count or not alike(flat.type):
        raise ValueError(f"{PREFIX}{name} is {column.type}; expected a list for every visit")
    return flat


def _visit(visit: int, parts: tuple[NDArray[Any], ...], geometry: Geometry) -> RouterRows:
    logits, index, weights, padding, final = parts
    tokens, k = len(padding), geometry.top_k
    sizes = [tokens * geometry.experts, tokens * k, tokens * k, tokens, tokens * k]
    if [len(part) for part in parts] != sizes:
        raise ValueError(
            f"visit {visit}: router rows of {[len(part) for part in parts]} numbers; expected "
            f"{sizes}: logits, index, weights, padding and final of {tokens} tokens"
        )
    return RouterRows(
        logits.reshape(tokens, geometry.experts),
        index.astype(np.int64).reshape(tokens, k),
        weights.reshape(tokens, k),
        padding,
        final.astype(np.int64).reshape(tokens, k),
    )


def check(visits: list[RouterRows], geometry: Geometry) -> None:
    """Check that all rows can be of this geometry.

    Raises:
        ValueError: names the first visit whose rows cannot be.
    """
    for visit, rows in enumerate(visits):
        chosen = np.concatenate([rows.index, rows.final])
        bounds = rows.index.min() >= 0 and chosen.min() >= -1 and chosen.max() < geometry.experts
        if not bounds or not np.isfinite(rows.logits).all():
            raise ValueError(
                f"trace: visit {visit}: its router rows hold experts {chosen.min()} to "
                f"{chosen.max()}; expected finite logits, and experts 0 to {geometry.experts - 1}"
            )
