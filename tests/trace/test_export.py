"""libCacheSim (a test-only package) reads what is exported and counts the same misses."""

from __future__ import annotations

import pytest
from traces import random_trace

from moex.cache.belady import Belady
from moex.cache.core import ExpertCache
from moex.cache.fifo import FIFO
from moex.cache.lru import LRU
from moex.sim.simulator import simulate
from moex.trace.export import oracle_general

lcs = pytest.importorskip("libcachesim")


@pytest.mark.parametrize("slots", [1, 3, 6])
@pytest.mark.parametrize(
    ("policy", "theirs"), [(LRU(), "LRU"), (FIFO(), "FIFO"), (Belady(), "Belady")]
)
def test_single_expert_traces_miss_as_often_in_libcachesim(tmp_path, policy, theirs, slots):
    trace = random_trace(3, layers=1, experts=12, top_k=1, tokens=800, sequences=1)
    path = oracle_general(trace, tmp_path / "trace.oracleGeneral")
    reader = lcs.TraceReader(
        str(path),
        lcs.TraceType.ORACLE_GENERAL_TRACE,
        lcs.ReaderInitParam(ignore_obj_size=True),
    )
    missed, _ = getattr(lcs, theirs)(slots).process_trace(reader)
    cache = ExpertCache(policy, trace.geometry, slots, future=trace.future())
    ours = simulate(trace, cache)
    assert ours.demand_misses == round(missed * len(trace.experts))


def test_next_requests_are_numbered(tmp_path):
    trace = random_trace(1, tokens=20, sequences=1)
    path = oracle_general(trace, tmp_path / "trace.bin")
    reader = lcs.TraceReader(str(path), lcs.TraceType.ORACLE_GENERAL_TRACE, lcs.ReaderInitParam())
    requests = [(r.obj_id, r.next_access_vtime) for r in reader]
    assert len(requests) == len(trace.experts)
    for name, following in requests[:-1]:
        assert following < 0 or following > 2**40 or requests[following][0] == name
