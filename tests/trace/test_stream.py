"""A trace in a stream is the same trace: chunks, several files, and what is refused."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from traces import literal, random_trace

import moex
from moex.api import read_trace
from moex.trace import record, writer
from moex.trace.files import open_trace
from moex.trace.format import write_trace
from moex.trace.record import TraceRecorder
from moex.trace.stream import TraceStream
from moex.trace.synthetic import Dials, generate, write_synthetic
from moex.trace.trace import joined
from moex.types import DECODE, Access, Geometry

COLUMNS = ("sequence", "position", "layer", "prefill", "experts", "offsets", "tokens")
COLUMNS += ("scores", "lookahead")


def same(found, expected):
    for name in COLUMNS:
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None), name
        assert ours is None or np.array_equal(ours, theirs, equal_nan=name == "lookahead"), name
    for name in ("predictions", "rows", "resets", "geometry"):
        assert getattr(found, name) == getattr(expected, name), name


@pytest.fixture
def small_groups(monkeypatch):
    monkeypatch.setattr(writer, "GROUP_VISITS", 100)


def test_the_chunks_of_a_stream_join_to_the_trace(tmp_path, small_groups):
    trace = read_trace("tiny").select(slice(50, 450))
    trace.resets = (7, 100, 399)
    path = write_trace(trace, tmp_path / "trace.parquet")
    assert pq.ParquetFile(path).num_row_groups == 4
    stream = open_trace(path, in_memory=0)
    assert isinstance(stream, TraceStream)
    assert len(stream) == 400
    for visits in (33, 1000):
        same(joined(stream.chunks(visits=visits)), trace)
        same(joined(trace.chunks(visits=visits)), trace)
    assert [chunk.first for chunk in stream.chunks(150, 330, 80)] == [150, 180, 200, 280, 300]
    same(stream.select(slice(150, 330)), trace.select(slice(150, 330)))
    assert stream.sequence_starts().tolist() == trace.sequence_starts().tolist()
    assert [access.clock for access in stream.accesses()] == list(range(400))
    same(read_trace(write_trace(stream, tmp_path / "copy.parquet")), trace)


def test_a_small_trace_is_read_whole(tmp_path):
    path = write_trace(random_trace(0), tmp_path / "trace.parquet")
    same(open_trace(path), random_trace(0))


def test_several_files_are_one_trace_of_other_sequences(tmp_path):
    parts = [random_trace(seed, sequences=2) for seed in range(3)]
    parts[1].resets = (5,)
    paths = [write_trace(part, tmp_path / f"{i}.parquet") for i, part in enumerate(parts)]
    for in_memory in (0, 1 << 30):
        for given in (paths, str(tmp_path / "*.parquet")):
            whole = open_trace(given, in_memory=in_memory).select(slice(None))
            assert len(whole) == sum(map(len, parts))
            assert np.unique(whole.sequence).tolist() == [0, 1, 2, 3, 4, 5]
            assert whole.resets == (len(parts[0]) + 5,)
            assert whole.experts.tolist() == [e for part in parts for e in part.experts.tolist()]


def test_files_of_two_geometries_or_settings_are_no_trace(tmp_path):
    one = write_trace(random_trace(0), tmp_path / "1.parquet")
    other = write_trace(random_trace(0, layers=3), tmp_path / "2.parquet")
    with pytest.raises(ValueError, match=r"2.parquet: recorded on 3 layers x 8 experts") as raised:
        open_trace([one, other])
    assert "\n" not in str(raised.value)
    warm = replace(random_trace(0), provenance={"cold": True})
    with pytest.raises(ValueError, match=r"recorded with cold=True, but .*1.parquet with None"):
        open_trace([one, write_trace(warm, tmp_path / "3.parquet")])
    with pytest.raises(FileNotFoundError, match=r"none-\*.parquet: no such file"):
        open_trace(str(tmp_path / "none-*.parquet"))


def test_a_column_that_one_file_lacks_is_not_in_the_trace(tmp_path):
    rich, poor = read_trace("tiny").select(slice(60)), read_trace("tiny").select(slice(60))
    poor.lookahead = poor.tokens = None
    paths = [tmp_path / "1.parquet", tmp_path / "2.parquet"]
    stream = open_trace([*map(write_trace, (rich, poor), paths)], in_memory=0)
    assert not stream.has("lookahead")
    assert stream.has("scores")
    assert stream.select(slice(None)).lookahead is None


def test_a_torn_row_group_is_refused_where_it_is_reached(tmp_path, small_groups):
    path = write_trace(random_trace(0, tokens=100), tmp_path / "trace.parquet")
    metadata = pq.ParquetFile(path).metadata
    at = metadata.row_group(2).column(4).data_page_offset
    data = bytearray(path.read_bytes())
    data[at + 20 : at + 40] = bytes(20)
    path.write_bytes(data)
    stream = open_trace(path, in_memory=0)
    chunks = stream.chunks()
    assert [len(next(chunks)) for _ in range(2)] == [100, 100]
    with pytest.raises(ValueError, match=r"row group 3 of 4: not a whole parquet file") as raised:
        next(chunks)
    assert "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"not a whole parquet file"):
        read_trace(path)
    path.write_bytes(data[:-50])
    with pytest.raises(ValueError, match=r"not a whole parquet file"):
        open_trace(path, in_memory=0)


def test_what_no_trace_holds_is_refused_in_the_chunk_that_holds_it(tmp_path, small_groups):
    trace = random_trace(0, tokens=100)
    trace.experts = trace.experts.copy()
    trace.experts[2 * 150] = trace.experts[2 * 150 + 1]
    path = write_trace(trace, tmp_path / "trace.parquet")
    with pytest.raises(
        ValueError, match=r"from visit 100 on: visit 50: experts=.*each expert once"
    ):
        list(open_trace(path, in_memory=0).chunks())


def test_resets_that_no_visit_has_are_refused_before_a_stream_is_read(tmp_path):
    trace = random_trace(0)
    trace.resets = (1000,)
    path = write_trace(trace, tmp_path / "trace.parquet")
    with pytest.raises(ValueError, match=r"resets=\[1000\]; expected visits 1 to 119"):
        open_trace(path, in_memory=0)


def test_a_file_with_large_lists_and_without_statistics_is_read(tmp_path):
    trace = random_trace(0)
    path = write_trace(trace, tmp_path / "trace.parquet")
    table = pq.read_table(path)
    large = table.column("experts").cast(pa.large_list(pa.uint16()))
    table = table.set_column(table.column_names.index("experts"), "experts", large)
    pq.write_table(table, path, write_statistics=False)
    same(read_trace(path), trace)
    same(open_trace([path, path], in_memory=0).select(slice(len(trace))), trace)


def test_a_policy_that_knows_the_future_can_replay_a_stream_of_limited_length(
    tmp_path, monkeypatch
):
    trace = random_trace(0, prompt=2)
    stream = open_trace(write_trace(trace, tmp_path / "trace.parquet"), in_memory=0)
    from moex.cache.belady import Belady
    from moex.prefetch.oracle import Oracle

    assert moex.simulate(stream, Belady(), 3) == moex.simulate(trace, Belady(), 3)
    with pytest.raises(ValueError, match=r"Oracle needs all of it.*try prefetch=none"):
        moex.simulate(stream, slots=3, prefetch=Oracle())
    monkeypatch.setattr("moex.trace.stream.LONGEST_FUTURE", 10)
    with pytest.raises(ValueError, match="expected at most 10; try cache=lru"):
        moex.simulate(stream, Belady(), 3)


def recorded(recorder, visits, tokens=None, ahead=True):
    for clock in range(visits):
        layer = clock % 2
        scores = (0.25,) * 4
        access = Access(clock, clock // 2, layer, DECODE, (clock % 3, 3), scores)
        recorder.add(clock // 10, access, (scores,) if ahead and not layer else (), tokens=tokens)


def test_a_long_recording_is_kept_in_files_and_is_the_same(tmp_path, monkeypatch):
    geometry = Geometry(2, 4, 2, 4, 4, 100)
    short = TraceRecorder(geometry, {"overlaps": True})
    recorded(short, 45, tokens=1)
    monkeypatch.setattr(record, "PART", 10)
    long = TraceRecorder(geometry, {"overlaps": True}, tmp_path)
    recorded(long, 45, tokens=1)
    for each in (short, long):
        each.resets |= {3, 12, 44}
        each.add(9, Access(45, 0, 0, DECODE, (0,)))
        each.cut(45)
    assert isinstance(long.recording({}), TraceStream)
    assert len(long) == 45
    same(long.trace({}), short.trace({}))
    path = write_trace(long.recording({"model": "m"}), tmp_path / "trace.parquet")
    found = read_trace(path)
    same(found, short.trace({}))
    assert found.provenance == {"overlaps": True, "model": "m"}
    assert list(tmp_path.glob(".trace.*.part"))
    del long, each
    assert not list(tmp_path.glob(".trace.*.part")), "the files go with the recorder"


def test_a_visit_cut_at_a_border_of_parts_is_not_recorded(monkeypatch):
    monkeypatch.setattr(record, "PART", 10)
    recorder = TraceRecorder(Geometry(2, 4, 2, 4, 4, 100))
    recorded(recorder, 20)
    recorder.add(2, Access(20, 10, 0, DECODE, (0,)))
    assert len(recorder) == 21
    recorder.cut(20)
    assert len(recorder) == 20
    assert len(recorder.trace({})) == 20


def test_a_part_without_lookahead_has_none_there(monkeypatch):
    monkeypatch.setattr(record, "PART", 10)
    recorder = TraceRecorder(Geometry(2, 4, 2, 4, 4, 100))
    recorded(recorder, 21)  # the last part is one visit, of layer 0
    recorder.add(2, Access(21, 10, 1, DECODE, (0,)))
    trace = recorder.trace({})
    assert trace.lookahead_rows(20) == ((0.25,) * 4,)
    assert trace.lookahead_rows(21) == ()
    assert trace.scores is None, "one visit has none"


def test_a_synthetic_trace_is_written_block_by_block(tmp_path):
    geometry, dials = Geometry(3, 8, 2, 4, 4, 100), Dials(contaminated=1, shared_tokens=2)
    given = geometry, 12, 6, dials, 5
    same(read_trace(write_synthetic(tmp_path / "1", *given, block=6)), generate(*given))
    trace = read_trace(write_synthetic(tmp_path / "2", *given, block=2))
    assert len(trace) == 3 * 12 * 6
    assert trace.provenance["seed"] == 5
    first = [a.experts for a in trace.accesses() if a.position < 2]
    assert first == first[:6] * 6, "all sequences begin like the first"
    assert len({a.experts for a in trace.accesses()}) > 6


def test_sequence_starts_are_the_clocks_of_new_sequences():
    trace = literal([(0, (1, 2)), (0, (1, 3), DECODE, 1), (0, (1, 3), DECODE, 1)])
    assert trace.sequence_starts().tolist() == [1]


def test_a_trace_that_is_not_written_to_its_end_is_not_there(tmp_path):
    trace = random_trace(0)

    def stopped():
        yield from trace.chunks(0, 50)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        writer.write_chunks(
            stopped(), tmp_path / "trace.parquet", trace.geometry, {"provenance": {}}
        )
    assert not list(tmp_path.iterdir())


def test_a_stream_has_one_chunk_in_memory(tmp_path):
    geometry = Geometry(4, 128, 8, 4, 4, 100)
    path = write_synthetic(tmp_path / "trace.parquet", geometry, 200, 20, block=5)
    stream = open_trace(path, in_memory=0)
    tracemalloc.start()
    seen = sum(len(chunk.experts) for chunk in stream.chunks(visits=500))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seen == 200 * 20 * 4 * 8
    whole = joined(stream.chunks())
    assert peak < whole.experts.nbytes + whole.offsets.nbytes, "smaller than its smallest columns"
