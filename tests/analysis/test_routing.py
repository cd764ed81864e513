"""What traces say about routing: patterns, recall of lookahead, sequential replay."""

from __future__ import annotations

import numpy as np
import pytest

from analysis.routing import hit_rate, lookahead_recall, pattern, sequential
from moex.api import read_trace, simulate
from moex.cache.lru import LRU
from moex.cache.none import NoCache
from moex.paths import trace_path
from moex.prefetch.gate import Gate


def test_the_pattern_s_residents_are_the_token_before_s_experts():
    trace = read_trace(trace_path("tiny"))
    found = pattern(trace, trace.geometry.top_k, [2], tokens=10)
    chosen = found.pivot(index="token", columns="expert", values="weight").to_numpy() > 0
    held = found.pivot(index="token", columns="expert", values="resident").to_numpy()
    assert np.array_equal(held[1:], chosen[:-1])
    assert found.groupby("token")["weight"].sum().to_numpy() == pytest.approx(np.ones(10))


def test_recall_of_lookahead_agrees_with_the_gate_prefetcher():
    trace = read_trace(trace_path("tiny"))
    found = lookahead_recall(trace)
    one = found[(found["ahead"] == 1) & (found["fetched"] == 2)]
    report = simulate(trace, NoCache(), 2, Gate(), staging=16)
    layers = trace.geometry.layers  # the first is never predicted
    assert report.prefetch_used / report.requests == pytest.approx(
        one["recall"].sum() / layers, abs=1e-3
    )
    assert found[found["fetched"] == 8]["recall"].min() == 1


def test_sequential_replay_is_one_access_a_visit():
    trace = read_trace(trace_path("tiny")).select(slice(0, 600))
    flat = sequential(trace, "ascending")
    assert len(flat) == len(trace.experts)
    assert sorted(flat.experts.tolist()) == sorted(trace.experts.tolist())
    assert hit_rate(flat, LRU(), 2) < hit_rate(trace, LRU(), 2)
    with pytest.raises(ValueError, match="expected routed, ascending or random"):
        sequential(trace, "sideways")
