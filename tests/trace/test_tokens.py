"""The number of a visit's tokens is kept in a trace; traces without it are read on."""

from __future__ import annotations

import pytest

from moex.api import read_trace, write_trace
from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.hardware.profile import HardwareProfile
from moex.paths import trace_path
from moex.sim.simulator import simulate
from moex.trace.record import TraceRecorder
from moex.types import DECODE, PREFILL, Access, Geometry

LINK = HardwareProfile("link", link_bytes_per_s=1e6, link_latency_s=0, visit_s=0.1, expert_s=0.1)


def recorded(tokens):
    """A prompt pass of 12 tokens, then two decoding passes of a batch of 3; two layers."""
    recorder = TraceRecorder(Geometry(2, 4, 2, 4, 4, 100))
    passes = [(PREFILL, 0, tokens[0]), (DECODE, 4, tokens[1]), (DECODE, 5, tokens[2])]
    for number, (phase, position, count) in enumerate(passes):
        for layer in range(2):
            access = Access(2 * number + layer, position, layer, phase, (0, 1, 2))
            recorder.add(0, access, tokens=count)
    return recorder.trace({})


def test_tokens_survive_the_file_and_are_counted_once_a_pass(tmp_path):
    trace = read_trace(write_trace(recorded((12, 3, 3)), tmp_path / "trace.parquet"))
    assert trace.tokens.tolist() == [12, 12, 3, 3, 3, 3]
    assert (trace.tokens_of(prefill=True), trace.tokens_of(prefill=False)) == (12, 6)
    half = trace.select(slice(2, 4))
    assert (half.tokens_of(prefill=True), half.tokens_of(prefill=False)) == (0, 3)


def test_a_simulation_s_speed_is_tokens_not_passes(tmp_path):
    rows = []
    for tokens in ((12, 3, 3), (None, None, None)):
        trace = recorded(tokens)
        cache = ExpertCache(LRU(), trace.geometry, 4)
        rows.append(simulate(trace, cache, hardware=LINK))
    assert rows[0].tokens_decode == 6
    assert rows[1].tokens_decode == 2  # not known: one a pass
    assert rows[0].decode_s == rows[1].decode_s
    assert rows[0].tokens_per_second == pytest.approx(3 * rows[1].tokens_per_second)


def test_a_trace_without_the_column_is_read(tmp_path):
    assert read_trace(trace_path("tiny")).tokens is None
    trace = read_trace(write_trace(recorded((None, 3, 3)), tmp_path / "trace.parquet"))
    assert trace.tokens is None
    assert trace.tokens_of(prefill=False) == 2
