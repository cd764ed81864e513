"""Reads the columns of a trace file as arrays of the types in `format.py`, without nulls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moex.types import Expert, Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Columns:
    """Reads a parquet table.

    Raises:
        ValueError: raised by every method: a column is missing, of another type, or has nulls.
    """

    def __init__(self, table: Any) -> None:
        self.table = table

    def numbers(self, name: str, kind: Any) -> NDArray[Any]:
        """Return one number (or boolean) a visit [visits], cast to `kind` without loss."""
        column = self._column(name)
        expected = "true or false" if kind is np.bool_ else f"whole numbers ({kind.__name__})"
        return _flat(name, column, kind, f"{expected} for every visit")

    def experts(self) -> dict[str, NDArray[Any]]:
        """Return the demanded experts of all visits, flat, and the offset of each visit."""
        expected = "a list of whole numbers (uint16) for every visit"
        flat, offsets = [np.zeros(0, np.uint16)], [np.zeros(1, np.int64)]
        for part in self._lists("experts", expected):
            flat.append(_flat("experts", part.flatten(), np.uint16, expected))
            lengths = part.value_lengths().to_numpy().astype(np.int64)
            offsets.append(offsets[-1][-1] + np.cumsum(lengths))
        return {"experts": np.concatenate(flat), "offsets": np.concatenate(offsets)}

    def matrix(self, name: str, width: int) -> NDArray[np.float32] | None:
        """Return a row of numbers for every visit [visits, width]; None without the column."""
        import pyarrow as pa

        if name not in self.table.column_names:
            return None
        expected = f"{width} numbers for every visit"
        column = self._list(name, expected)
        flat = column.flatten()
        if not pa.types.is_floating(flat.type) or flat.null_count:
            raise _refused(name, flat, expected)
        lengths = np.diff(column.offsets.to_numpy()) if hasattr(column, "offsets") else None
        found = {column.type.list_size} if lengths is None else set(lengths.tolist())
        if found - {width}:
            raise ValueError(f"{name} has {sorted(found)} numbers a visit; expected {expected}")
        return flat.to_numpy().astype(np.float32, copy=False).reshape(-1, width)

    def predictions(self) -> list[list[Prediction]] | None:
        """Return the predictions of the run's prefetcher; None without the column."""
        if "predictions" not in self.table.column_names:
            return None
        expected = "a list of layer, index, score (and rows) for every visit"
        column = self._list("predictions", expected)
        try:
            return [
                [
                    Prediction(Expert(int(p["layer"]), int(p["index"])), +p["score"], p.get("rows"))
                    for p in row
                ]
                for row in column.to_pylist()
            ]
        except (TypeError, KeyError, AttributeError) as error:
            raise _refused("predictions", column, expected) from error

    def rows(self) -> list[list[bytes | None]] | None:
        """Return bitmaps of the rows that each expert needed; None without the column."""
        import pyarrow as pa

        if "rows" not in self.table.column_names:
            return None
        expected = "a list of bitmaps (binary) for every visit"
        column = self._list("rows", expected)
        if not pa.types.is_binary(column.type.value_type):
            raise _refused("rows", column, expected)
        rows: list[list[bytes | None]] = column.to_pylist()
        return rows

    def _column(self, name: str) -> Any:
        return self._chunked(name).combine_chunks()

    def _chunked(self, name: str) -> Any:
        if name not in self.table.column_names:
            known = ", ".join(self.table.column_names)
            raise ValueError(f"has the columns {known}; expected {name}, too")
        return self.table.column(name)

    def _list(self, name: str, expected: str) -> Any:
        """Return a column of lists in one piece."""
        self._lists(name, expected)
        return self._column(name)

    def _lists(self, name: str, expected: str) -> list[Any]:
        """Return a column of lists in pieces, whose offsets may not fit one with 32 bits."""
        import pyarrow as pa

        column = self._chunked(name)
        kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
        if not any(kind(column.type) for kind in kinds) or column.null_count:
            raise _refused(name, column, expected)
        pieces: list[Any] = column.chunks
        return pieces


def _flat(name: str, column: Any, kind: Any, expected: str) -> NDArray[Any]:
    """Return numbers as an array of `kind`; integers of another width are cast if they fit."""
    import pyarrow as pa

    alike = pa.types.is_boolean if kind is np.bool_ else pa.types.is_integer
    if not alike(column.type) or column.null_count:
        raise _refused(name, column, expected)
    try:
        cast = column.cast(pa.from_numpy_dtype(kind))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{name}: {error}; expected {expected}") from error
    array: NDArray[Any] = cast.to_numpy(zero_copy_only=False)
    return array


def _refused(name: str, column: Any, expected: str) -> ValueError:
    nulls = f" with {column.null_count} nulls" if column.null_count else ""
    return ValueError(f"{name} is {column.type}{nulls}; expected {expected}")
