"""A trace that no run can have recorded is refused: in one line that names its file and visit."""

from __future__ import annotations

import json
from dataclasses import replace
from math import inf, nan

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moex.api import read_trace, simulate, write_trace
from moex.paths import trace_path
from moex.trace.record import TraceRecorder
from moex.types import DECODE, Access, Expert, Geometry, Prediction

SHAPE = Geometry(layers=2, experts=4, top_k=2, hidden=4, intermediate=12, expert_bytes=100)
ROW = (0.5, 0.25, 0.25, 0.0)


def recorded():
    """Four visits with every column that there is."""
    recorder = TraceRecorder(SHAPE)
    for clock in range(4):
        layer = clock % 2
        access = Access(clock, clock // 2, layer, DECODE, (clock % 3, 3), ROW)
        said = [Prediction(Expert(1 - layer, 2), 0.5, b"\xff\x0f")]
        ahead = (ROW,) if layer == 0 else ()
        recorder.add(0, access, ahead, said, tokens=1, needs=(5, None))
    return recorder.trace({"model": "none"})


@pytest.fixture
def written(tmp_path):
    """The file, its table and its header, to be spoilt."""
    path = write_trace(recorded(), tmp_path / "trace.parquet")
    table = pq.read_table(path)
    return path, table, json.loads(table.schema.metadata[b"moex"])


def refused(path):
    with pytest.raises(ValueError, match="; expected ") as caught:
        read_trace(path)
    line = str(caught.value)
    assert line.startswith(f"trace={path}: ")
    assert "\n" not in line
    assert "; try trace=tiny, or record one: python run.py mode=live" in line
    return line


def test_what_is_suggested_for_a_bad_trace_is_one():
    assert len(read_trace("tiny"))


def test_a_trace_with_every_column_reads_as_it_was_written(written):
    ours, theirs = read_trace(written[0]), recorded()
    for name, value in vars(theirs).items():
        np.testing.assert_equal(getattr(ours, name), value, name)


COLUMNS = {
    "experts": [
        ([[0, 3], None, [2, 3], [0, 3]], pa.list_(pa.uint16()), "experts is list"),
        ([[0, 3], [1, None], [2, 3], [0, 3]], pa.list_(pa.uint16()), "uint16 with 1 nulls"),
        ([[0, 3], [1, 3], [3, 3], [0, 3]], pa.list_(pa.uint16()), "visit 2: experts=3, 3; expec"),
        ([[0, 3], [], [2, 3], [0, 3]], pa.list_(pa.uint16()), "visit 1: experts=[]; expected at"),
        ([[0, 3], [1, 3], [2, 9], [0, 3]], pa.list_(pa.uint16()), "visit 2: experts=9; expected"),
        ([[0, 1, 2], [1], [2], [0]], pa.list_(pa.uint16()), "visit 0: experts=3 experts; expected"),
        ([[0, 3], [-1], [2], [0]], pa.list_(pa.int32()), "experts: Integer value -1 not in range"),
        ([["0"]] * 4, pa.list_(pa.string()), "experts is string; expected a list of whole"),
        ([1, 2, 3, 0], pa.int32(), "experts is int32; expected a list of whole numbers"),
    ],
    "tokens": [
        ([1, 1, -3, 1], pa.int32(), "visit 2: tokens=-3; expected 1 or more"),
        ([1, 1, 0, 1], pa.int32(), "visit 2: tokens=0; expected 1 or more"),
        ([1, 1, None, 1], pa.int32(), "tokens is int32 with 1 nulls"),
        ([1.0, 1.0, nan, 1.0], pa.float64(), "tokens is double; expected whole numbers (int32)"),
    ],
    "layer": [
        ([0, 1, 2, 1], pa.int16(), "visit 2: layer=2; expected 0 to 1"),
        ([0, -1, 0, 1], pa.int16(), "visit 1: layer=-1; expected 0 to 1"),
        ([0, 1, 70000, 1], pa.int32(), "layer: Integer value 70000 not in range"),
        ([0, None, 0, 1], pa.int16(), "layer is int16 with 1 nulls"),
    ],
    "position": [
        ([0, 0, -1, 1], pa.int32(), "visit 2: position=-1; expected 0 or more"),
        ([0, 0, 2**40, 1], pa.int64(), "position: Integer value 1099511627776 not in range"),
    ],
    "sequence": [(["a"] * 4, pa.string(), "sequence is string; expected whole numbers (int32)")],
    "prefill": [(["x"] * 4, pa.string(), "prefill is string; expected true or false")],
    "scores": [
        ([[*ROW]] * 3 + [[nan, 0, 0, 0]], pa.list_(pa.float32(), 4), "visit 3: scores=[nan, 0.0"),
        ([[*ROW]] * 3 + [[inf, 0, 0, 0]], pa.list_(pa.float32(), 4), "visit 3: scores=[inf, 0.0"),
        ([[-1, 0, 0, 0]] + [[*ROW]] * 3, pa.list_(pa.float32(), 4), "visit 0: scores=[-1.0, 0.0"),
        ([[0.5, 0.5]] * 4, pa.list_(pa.float32(), 2), "scores has [2] numbers a visit; expected 4"),
        ([[*ROW]] * 3 + [[1.0]], pa.list_(pa.float32()), "scores has [1, 4] numbers a visit"),
        ([[*ROW]] * 3 + [None], pa.list_(pa.float32(), 4), "scores is fixed_size_list"),
    ],
    "lookahead": [
        ([[inf] * 12] * 4, pa.list_(pa.float32(), 12), "visit 0: lookahead=[inf"),
        ([[nan] + [0] * 11] * 4, pa.list_(pa.float32(), 12), "or nan for all experts of a layer"),
        (
            [[0] * 4] * 4,
            pa.list_(pa.float32(), 4),
            "lookahead has [4] numbers a visit; expected 12",
        ),
    ],
    "rows": [
        ([[b"\x05\x00"]] * 4, pa.list_(pa.binary()), "visit 0: rows=bitmaps of [2] bytes; expec"),
        ([[b"\x05", None]] * 4, pa.list_(pa.binary()), "rows=bitmaps of [1, None] bytes; expec"),
        ([[b"\x05\xf0", None]] * 4, pa.list_(pa.binary()), "expected a bitmap of 12 neurons"),
        ([None] * 4, pa.list_(pa.binary()), "rows is list"),
        ([["a", "b"]] * 4, pa.list_(pa.string()), "expected a list of bitmaps (binary)"),
    ],
    "predictions": [
        ([[{"layer": 2, "index": 0, "score": 0.5}]] * 4, None, "visit 0: predictions=layer 2"),
        ([[{"layer": 1, "index": 4, "score": 0.5}]] * 4, None, "visit 0: predictions=layer 1, exp"),
        ([[{"layer": 1, "index": 0, "score": nan}]] * 4, None, "score nan; expected layers 0 to 1"),
        ([[{"layer": None, "index": 0, "score": 0.5}]] * 4, None, "predictions is list"),
        ([[{"layer": 1, "index": 0}]] * 4, None, "expected a list of layer, index, score"),
        ([None] * 4, pa.list_(pa.int32()), "predictions is list<element: int32> with 4 nulls"),
    ],
}


@pytest.mark.parametrize(
    ("name", "values", "kind", "line"),
    [(name, *case) for name, cases in COLUMNS.items() for case in cases],
)
def test_a_column_that_no_run_writes_is_refused(written, name, values, kind, line):
    path, table, _ = written
    place = table.schema.get_field_index(name)
    pq.write_table(table.set_column(place, name, pa.array(values, kind)), path)
    assert line in refused(path)


@pytest.mark.parametrize("name", ["sequence", "position", "layer", "prefill", "experts"])
def test_a_column_that_is_lacking_is_named(written, name):
    path, table, _ = written
    pq.write_table(table.drop_columns([name]), path)
    assert f"; expected {name}, too" in refused(path)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"top_k": 0}, "geometry: top_k=0; expected a whole number 1 to 4, the experts of a layer"),
        ({"top_k": 9}, "geometry: top_k=9; expected a whole number 1 to 4, the experts of a layer"),
        ({"top_k": "two"}, "geometry: top_k=two; expected a whole number"),
        ({"top_k": 1.5}, "geometry: top_k=1.5; expected a whole number"),
        ({"top_k": True}, "geometry: top_k=True; expected a whole number"),
        ({"expert_bytes": 0}, "geometry: expert_bytes=0; expected a whole number 1 to"),
        ({"expert_bytes": nan}, "its header is not JSON (NaN is not a JSON number)"),
        ({"expert_bytes": 10**30}, "geometry: expert_bytes=1000000000000000000000000000000; expec"),
        ({"experts": None}, "geometry: experts=None; expected a whole number"),
        ({"layers": 0}, "geometry: layers=0; expected a whole number 1 to"),
        ({"layers": 10**9}, "geometry: layers=1000000000 experts=4; expected at most 1000000 exp"),
        ({"hidden": -1}, "geometry: hidden=-1; expected a whole number 0 to"),
        ({"depth": 7}, "its geometry is {'layers': 2, "),
    ],
)
def test_a_geometry_that_no_model_has_is_refused(written, changes, line):
    path, table, header = written
    header["geometry"] |= changes
    text = json.dumps(header).encode()
    pq.write_table(table.replace_schema_metadata({b"moex": text}), path)
    assert line in refused(path)


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (b'{"schema": 1, "geom', "its header is not JSON (Unterminated string"),
        (b"[1, 2]", "schema none; expected 1, which this moex reads"),
        (b'{"schema": 9}', "schema 9; expected 1, which this moex reads"),
        (b'{"schema": 1}', "its header has no provenance; expected an object"),
        (b'{"schema": 1, "provenance": {"quant": 5}}', "provenance has quant=5; expected dict or"),
        (b'{"schema": 1, "provenance": {"predictor_bytes": 0.5}}', "predictor_bytes=0.5; expected"),
        (b'{"schema": 1, "provenance": {}}', "its geometry is None; expected layers, experts"),
        (None, "schema none; expected 1, which this moex reads"),
    ],
)
def test_a_broken_header_is_named(written, header, line):
    path, table, _ = written
    metadata = {} if header is None else {b"moex": header}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    assert line in refused(path)


def test_a_file_without_visits_or_with_fewer_than_it_says_is_refused(written):
    path, table, header = written
    pq.write_table(table.slice(0, 3), path)
    assert "holds 3 visits; expected 4, as it says" in refused(path)
    text = json.dumps({**header, "visits": 0}).encode()
    pq.write_table(table.slice(0, 0).replace_schema_metadata({b"moex": text}), path)
    assert "holds no visit; expected at least one" in refused(path)
    path.write_bytes(path.read_bytes()[:100])
    assert "not a whole parquet file" in refused(path)


def test_a_trace_made_in_memory_is_checked_alike():
    trace = recorded()
    with pytest.raises(ValueError, match="trace: visit 1: experts=3, 3; expected each expert once"):
        replace(trace, experts=np.asarray([0, 3, 3, 3, 2, 3, 0, 3], np.uint16))
    with pytest.raises(ValueError, match="trace: position has 3 visits, layer 4; expected as many"):
        replace(trace, position=trace.position[:3])
    with pytest.raises(ValueError, match="trace: holds no visit; expected at least one"):
        simulate(trace.select(slice(0)), slots=2)


def test_the_bundled_traces_are_valid():
    for path in trace_path("tiny").parent.glob("*.parquet"):
        assert len(read_trace(path)), path
