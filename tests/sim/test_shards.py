"""Streams and shards of a trace give the row of the whole trace, field for field."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import random_trace

import moex
from moex.cache.belady import Belady
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.cache.random import Random
from moex.cache.s3fifo import S3FIFO
from moex.hardware.profile import HardwareProfile
from moex.prefetch.gate import Gate
from moex.prefetch.oracle import Oracle
from moex.prefetch.recorded import Recorded
from moex.sim.shards import Totals, borders
from moex.trace import writer
from moex.trace.files import open_trace
from moex.trace.format import write_trace
from moex.types import Expert, Prediction

POLICIES = [LRU, LFU, Random, S3FIFO, Belady]


@pytest.fixture
def tiny():
    return moex.read_trace("tiny")


def streamed(trace, folder, monkeypatch):
    """The trace as a stream of chunks, none of which is a whole number of passes or sequences."""
    monkeypatch.setattr(writer, "GROUP_VISITS", 97)
    return open_trace(write_trace(trace, folder / "trace.parquet"), in_memory=0)


@pytest.mark.parametrize("cold", [False, True])
@pytest.mark.parametrize("pool", ["layer", "global"])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_stream_and_its_shards_give_the_row_of_the_whole(
    policy, pool, cold, tmp_path, monkeypatch
):
    trace = random_trace(3, tokens=40, sequences=5, prompt=3)
    trace.resets = (7, 90)
    stream = streamed(trace, tmp_path, monkeypatch)
    given = {"slots": 3, "pool": pool, "cold": cold}
    expected = moex.simulate(trace, policy(), **given)
    assert moex.simulate(stream, policy(), **given) == expected
    if cold:
        for shards in (2, 5):
            for each in (trace, stream):
                found = moex.simulate(each, policy(), **given, shards=shards)
                assert found.shards == shards
                found.shards = 1
                assert found == expected


@pytest.mark.parametrize("prefetch", [Gate(), Recorded()])
def test_a_stream_with_prefetching_gives_the_row_of_the_whole(
    prefetch, tiny, tmp_path, monkeypatch
):
    following = [[Prediction(Expert(a.layer, i), 1.0) for i in a.experts] for a in tiny.accesses()]
    tiny.predictions = [*following[1:], []]
    stream = streamed(tiny, tmp_path, monkeypatch)
    for cold in (False, True):
        given = {"slots": 3, "prefetch": prefetch, "cold": cold, "governor": False}
        expected = moex.simulate(tiny, LRU(), **given)
        assert expected.prefetch_issued
        assert moex.simulate(stream, LRU(), **given) == expected
    found = moex.simulate(stream, LRU(), **given, shards=3)
    found.shards = 1
    assert found == expected


def test_a_clock_runs_on_from_chunk_to_chunk(tiny, tmp_path, monkeypatch):
    stream = streamed(tiny, tmp_path, monkeypatch)
    machine = HardwareProfile(link_bytes_per_s=1e9, visit_s=1e-4, expert_s=1e-5)
    machine = machine.__class__(**vars(machine) | {"expert_bytes": tiny.geometry.expert_bytes})
    given = {"slots": 3, "prefetch": Gate(), "hardware": machine}
    expected, found = moex.simulate(tiny, LRU(), **given), moex.simulate(stream, LRU(), **given)
    assert expected.tokens_per_second
    assert found.decode_lower_bound_s is None, "it takes all of the trace in memory"
    found.decode_lower_bound_s = expected.decode_lower_bound_s
    assert found == expected


def test_an_oracle_knows_in_every_shard_what_comes_after_it():
    trace = random_trace(1, tokens=20, sequences=4)
    given = {"slots": 3, "prefetch": Oracle(horizon=3), "cold": True, "governor": False}
    expected = moex.simulate(trace, LRU(), **given)
    found = moex.simulate(trace, LRU(), **given, shards=4)
    found.shards = 1
    assert found == expected


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 6), st.sampled_from(POLICIES))
def test_any_number_of_shards_adds_up_to_the_same_row(seed, sequences, shards, policy):
    trace = random_trace(seed, tokens=8, sequences=sequences, prompt=seed % 3)
    shards = min(shards, sequences)
    expected = moex.simulate(trace, policy(), 2, cold=True, seed=seed)
    found = moex.simulate(trace, policy(), 2, cold=True, seed=seed, shards=shards)
    found.shards = 1
    assert found == expected


def test_a_reset_at_a_border_of_sequences_is_no_border_of_shards():
    trace = random_trace(0, tokens=10, sequences=3)
    trace.resets = (20,)
    assert borders(trace, 2, cold=True, timed=False) == [(0, 40), (40, 60)]
    with pytest.raises(ValueError, match="at most 2; try shards=2"):
        borders(trace, 3, cold=True, timed=False)


def test_shards_that_depend_on_each_other_are_refused():
    trace = random_trace(0)
    with pytest.raises(ValueError, match=r"shards=2: this cache stays warm.*try shards=1") as one:
        moex.simulate(trace, LRU(), 3, shards=2)
    machine = HardwareProfile(link_bytes_per_s=1e9)
    with pytest.raises(
        ValueError, match=r"shards=2: a modelled link goes on.*hardware=auto"
    ) as two:
        moex.simulate(trace, LRU(), 3, shards=2, cold=True, hardware=machine)
    assert "\n" not in f"{one.value}{two.value}"


def test_counts_of_another_geometry_are_not_added():
    ours, theirs = (Totals(random_trace(0, layers=layers).geometry) for layers in (2, 3))
    plain = json.loads(json.dumps(theirs.plain()))
    with pytest.raises(ValueError, match="shards: one is of the geometry"):
        ours.add(plain)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_long_replay_shows_how_far_it_is_on_a_terminal_only(terminal, monkeypatch):
    shown = io.StringIO()
    shown.isatty = lambda: terminal
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setattr("moex.sim.interpreted.LONG", 10)
    moex.simulate(random_trace(0), LRU(), 3)
    assert ("/120" in shown.getvalue()) == terminal
    assert bool(shown.getvalue()) == terminal
