"""Validates the columns of a trace, once, when the trace is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from moex.trace import router_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from moex.trace.trace import Trace

DEPTHS = 3
"""Layers ahead that gate-lookahead scores are recorded for."""

CELLS = 1 << 24
"""Visits times experts that are looked through at once: it bounds the memory that checks take."""


def check(trace: Trace) -> None:
    """Check all columns of a trace.

    Raises:
        ValueError: names the column, the first invalid visit, and what was expected.
    """
    trace.geometry.check("trace: geometry")
    _same_length(trace)
    _experts(trace)
    geometry = trace.geometry
    _within("layer", trace.layer, 0, geometry.layers - 1)
    _within("position", trace.position, 0)
    check_resets(trace.resets, trace.first, len(trace))
    if trace.tokens is not None:
        _within("tokens", trace.tokens, 1)
        counts = np.diff(trace.offsets)
        if (many := _first(counts > geometry.top_k * trace.tokens.astype(np.int64))) is not None:
            expected = f"at most top-{geometry.top_k} of each of {trace.tokens[many]} tokens"
            raise wrong("experts", many, f"{counts[many]} experts", expected)
    if trace.scores is not None:
        _scores("scores", trace.scores, geometry.experts)
    if trace.lookahead is not None:
        _lookahead(trace.lookahead, geometry.experts)
    if trace.predictions is not None:
        _predictions(trace)
    if trace.rows is not None:
        _rows(trace)
    if trace.router is not None:
        router_rows.check(trace.router, geometry)


def check_resets(resets: Sequence[int], first: int, visits: int) -> None:
    """Check that the cache was emptied before visits of the trace, or chunk, that are not its 0th.

    Raises:
        ValueError: it was not.
    """
    least, end = max(1, first), first + visits
    if not all(type(at) is int and least <= at < end for at in resets):
        raise ValueError(
            f"trace: resets={list(resets)}; expected visits {least} to {end - 1}, before "
            "which the cache was emptied"
        )


def wrong(column: str, visit: int, given: object, expected: str) -> ValueError:
    """Return the error of an invalid visit."""
    return ValueError(f"trace: visit {visit}: {column}={given}; expected {expected}")


def _same_length(trace: Trace) -> None:
    count, offsets = len(trace.layer), trace.offsets
    columns = {name: value for name, value in vars(trace).items() if _is_column(name, value)}
    for name, column in columns.items():
        if len(column) != count:
            raise ValueError(
                f"trace: {name} has {len(column)} visits, layer {count}; expected as many in each"
            )
    if len(offsets) != count + 1 or offsets[0] != 0 or offsets[-1] != len(trace.experts):
        raise ValueError("trace: the offsets do not divide the experts into the visits")


def _is_column(name: str, value: object) -> bool:
    others = ("geometry", "provenance", "resets", "first", "experts", "offsets")
    return name not in others and value is not None


def _experts(trace: Trace) -> None:
    """Check that every visit demands at least one expert, and none twice."""
    counts, experts = np.diff(trace.offsets), trace.experts
    if (empty := _first(counts < 1)) is not None:
        raise wrong("experts", empty, "[]", "at least one expert")
    limit = trace.geometry.experts
    if (bad := _first((experts < 0) | (experts >= limit))) is not None:
        visit = int(np.searchsorted(trace.offsets, bad, side="right")) - 1
        raise wrong("experts", visit, experts[bad], f"experts 0 to {limit - 1}")
    block = max(1, CELLS // limit)
    for begin in range(0, len(counts), block):
        offsets = trace.offsets[begin : begin + block + 1]
        visits = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        demanded = experts[offsets[0] : offsets[-1]]
        seen = np.zeros((len(offsets) - 1, limit), np.bool_)
        seen[visits, demanded] = True
        if np.count_nonzero(seen) == len(demanded):
            continue
        names = np.sort(visits * limit + demanded)
        visit, expert = divmod(int(names[:-1][names[1:] == names[:-1]][0]), limit)
        raise wrong("experts", begin + visit, f"{expert}, {expert}", "each expert once")


def _first(bad: NDArray[np.bool_]) -> int | None:
    """Return the index of the first invalid entry; None if all are valid."""
    return int(bad.argmax()) if bad.any() else None


def _within(name: str, column: NDArray[Any], low: int, high: int | None = None) -> None:
    outside = column < low if high is None else (column < low) | (column > high)
    if (bad := _first(outside)) is not None:
        upper = " or more" if high is None else f" to {high}"
        raise wrong(name, bad, column[bad], f"{low}{upper}")


def _scores(name: str, rows: NDArray[np.float32], width: int) -> None:
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(f"trace: {name} has shape {rows.shape}; expected {width} numbers a visit")
    # A nan or an infinity makes the sum one; a sum that overflows is no row of probabilities.
    if (bad := _first(~np.isfinite(rows.sum(1)) | (rows < 0).any(1))) is not None:
        raise wrong(name, bad, rows[bad].tolist(), "finite numbers, 0 or more")


def _lookahead(rows: NDArray[np.float32], experts: int) -> None:
    """Check the lookahead scores; rows beyond the last layer are nan."""
    if rows.ndim != 2 or rows.shape[1] != DEPTHS * experts:
        raise ValueError(
            f"trace: lookahead has shape {rows.shape}; expected {DEPTHS * experts} numbers a visit"
        )
    each = rows.reshape(-1, experts)
    absent = np.isnan(each).all(1)
    if (bad := _first(~absent & (~np.isfinite(each.sum(1)) | (each < 0).any(1)))) is not None:
        expected = "finite numbers, 0 or more, or nan for all experts of a layer"
        raise wrong("lookahead", bad // DEPTHS, each[bad].tolist(), expected)


def _predictions(trace: Trace) -> None:
    layers, experts, *_, neurons, _ = trace.geometry
    assert trace.predictions is not None
    for visit, predictions in enumerate(trace.predictions):
        for (layer, index), score, rows in predictions:
            if not (0 <= layer < layers and 0 <= index < experts and abs(score) < np.inf):
                given = f"layer {layer}, expert {index}, score {score}"
                expected = f"layers 0 to {layers - 1}, experts 0 to {experts - 1}, finite scores"
                raise wrong("predictions", visit, given, expected)
            if rows is not None and not _is_bitmap(rows, neurons):
                given = f"rows of {len(rows)} bytes"
                raise wrong("predictions", visit, given, f"a bitmap of {neurons} neurons")


def _rows(trace: Trace) -> None:
    """Check that a visit has a bitmap (None: all neurons) for each of its experts."""
    neurons, counts = trace.geometry.intermediate, np.diff(trace.offsets).tolist()
    assert trace.rows is not None
    for visit, (count, bitmaps) in enumerate(zip(counts, trace.rows, strict=True)):
        given = [each for each in bitmaps if each is not None]
        if len(bitmaps) != count or not all(_is_bitmap(each, neurons) for each in given):
            lengths = [None if each is None else len(each) for each in bitmaps]
            expected = f"a bitmap of {neurons} neurons for each of {count} experts"
            raise wrong("rows", visit, f"bitmaps of {lengths} bytes", expected)


def _is_bitmap(rows: bytes, neurons: int) -> bool:
    """Whether the bitmap has the length for this number of neurons, and no bit beyond it."""
    return len(rows) == -(-neurons // 8) and not int.from_bytes(rows, "little") >> neurons
