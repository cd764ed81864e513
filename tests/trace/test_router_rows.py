"""Router rows of a trace: written and read again, and refused where no run can have them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from traces import literal

from moex.trace.format import read_trace, write_trace
from moex.trace.router_rows import RouterRows

TOKENS = (3, 1, 2)


@pytest.fixture
def trace():
    """Three visits of a top-2 layer of 8, with the rows of three, one and two tokens."""
    draw, visits = np.random.default_rng(0), []
    for tokens in TOKENS:
        logits = draw.normal(size=(tokens, 8)).astype(np.float32)
        index = np.argsort(-logits, axis=1)[:, :2]
        final = index.copy()
        final[0, 1] = -1
        weights, padding = np.full((tokens, 2), 0.5, np.float32), np.arange(tokens) == 1
        visits.append(RouterRows(logits, index, weights, padding, final))
    return replace(literal([(0, (0, 1))] * len(TOKENS)), router=visits)


def test_rows_are_read_as_they_were_written(trace, tmp_path):
    found = read_trace(write_trace(trace, tmp_path / "trace.parquet"))
    assert len(found.router) == len(TOKENS)
    for ours, theirs in zip(trace.router, found.router, strict=True):
        for name in RouterRows._fields:
            assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
            assert getattr(ours, name).dtype == getattr(theirs, name).dtype, name
    part = found.select(slice(1, 3))
    assert [len(rows.padding) for rows in part.router] == list(TOKENS[1:])


def test_a_trace_without_rows_has_none(tmp_path):
    path = write_trace(literal([(0, (0, 1))]), tmp_path / "trace.parquet")
    assert read_trace(path).router is None


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda t: t.drop_columns(["router_final"]), "no column router_final; expected it, too"),
        (lambda t: _put(t, "router_padding", [[True]] * 3), "visit 0: router rows of"),
        (lambda t: _put(t, "router_index", [["a"]] * 3), "router_index is list<.*expected a list"),
        (lambda t: _put(t, "router_index", [[9, 9] * n for n in TOKENS]), "experts 0 to 7"),
        (lambda t: _put(t, "router_logits", [[np.inf] * 8 * n for n in TOKENS]), "finite logits"),
    ],
)
def test_rows_that_no_run_can_have_are_refused(trace, tmp_path, change, line):
    path = write_trace(trace, tmp_path / "trace.parquet")
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(ValueError, match=line) as caught:
        read_trace(path)
    assert "\n" not in str(caught.value)


def _put(table, name, values):
    return table.set_column(table.column_names.index(name), name, [values])
