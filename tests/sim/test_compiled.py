"""A compiled replay gives the interpreted one's row, field for field."""

from __future__ import annotations

from dataclasses import asdict, replace

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import random_trace

from moex.cache.belady import Belady
from moex.cache.core import ExpertCache
from moex.cache.fifo import FIFO
from moex.cache.gdsf import GDSF
from moex.cache.least_stale import LeastStale
from moex.cache.lfru import LFRU
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.cache.lru_k import LRUK
from moex.cache.mru import MRU
from moex.cache.none import NoCache
from moex.cache.random import Random
from moex.cache.static import Static
from moex.cache.window_lfu import WindowLFU
from moex.decisions.governor import NEVER, Governor
from moex.hardware.profile import HardwareProfile
from moex.prefetch.gate import Gate
from moex.prefetch.oracle import Oracle
from moex.prefetch.recorded import Recorded
from moex.sim.simulator import simulate
from moex.types import Expert, Prediction

LAYERS, EXPERTS = 3, 7
POLICIES = [
    LRU(),
    MRU(),
    FIFO(),
    LFU(),
    LFU(decay=0.7, perfect=False),
    LFRU(),
    LFRU(perfect=False),
    LRUK(k=3),
    Random(),
    LeastStale(),
    GDSF(weights=(0.3, 1.0, 0.7)),
    Static(calibration=4),
    WindowLFU(window=3),
    NoCache(),
    Belady(),
    Belady(bypass=True),
]
LINK = HardwareProfile(
    "odd",
    link_bytes_per_s=1013.0,
    link_latency_s=0.0173,
    chunk_bytes=33,
    visit_s=0.0311,
    expert_s=0.0127,
    pass_s=0.0071,
    submit_s=0.0013,
    handover_s=0.0017,
    load_s=0.0029,
    predict_s=0.0037,
)
PREFETCHERS = st.one_of(
    st.none(),
    st.builds(Gate, depth=st.integers(1, 3), width=st.integers(0, 4)),
    st.builds(Gate, budget_bytes=st.sampled_from([0, 50, 350])),
    st.builds(Recorded),
    st.builds(
        Oracle,
        precision=st.sampled_from([1.0, 0.5]),
        recall=st.sampled_from([1.0, 0.6]),
        horizon=st.integers(1, 4),
    ),
)


def recorded(seed, top_k, prompt):
    """A trace with lookahead scores (some of them equal), predictions and interruptions."""
    trace = random_trace(seed, LAYERS, EXPERTS, top_k, tokens=12, sequences=3, prompt=prompt)
    draw = np.random.default_rng(seed)
    scores = draw.integers(0, 6, (len(trace), 3, EXPERTS)).astype(np.float32) / 8
    for distance in range(3):
        scores[trace.layer + 1 + distance >= LAYERS, distance] = np.nan
    trace.lookahead = scores.reshape(len(trace), -1)
    trace.predictions = [
        [
            Prediction(Expert(int(draw.integers(LAYERS)), int(draw.integers(EXPERTS))), 1.0)
            for _ in range(draw.integers(4))
        ]
        for _ in range(len(trace))
    ]
    trace.resets = tuple(sorted(draw.choice(np.arange(1, len(trace)), 2, False).tolist()))
    trace.tokens = np.where(trace.prefill, max(prompt, 1), 1).astype(np.int32)
    return trace


def row(trace, compiled, policy, slots, pool, staging, prefetcher, hardware, cold, least):
    future = trace.future() if "future" in policy.needs else None
    cache = ExpertCache(policy, trace.geometry, slots, pool, staging, 5, future)
    governor = Governor(least)
    return simulate(trace, cache, prefetcher, hardware, cold, governor=governor, compiled=compiled)


@pytest.fixture(scope="module")
def uncompiled():
    """Let the functions that are compiled run as they are: the same text, without the wait."""
    before, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, True
    yield
    numba.config.DISABLE_JIT = before


@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    top_k=st.integers(1, 3),
    prompt=st.sampled_from([0, 2, 5]),
    slots=st.integers(3, EXPERTS),
    pool=st.sampled_from(["layer", "global"]),
    staging=st.integers(1, 8),
    prefetcher=PREFETCHERS,
    hardware=st.sampled_from([None, LINK, replace(LINK, chunk_bytes=1000, link_latency_s=0.0)]),
    cold=st.booleans(),
    least=st.sampled_from([None, 0.3, 0.9, NEVER]),
)
def test_every_field_of_the_row_is_the_interpreted_ones(policy, seed, top_k, prompt, **settings):
    trace = recorded(seed, top_k, prompt)
    interpreted, compiled = (
        asdict(row(trace, compiled, policy, **settings)) for compiled in (False, True)
    )
    assert (interpreted.pop("replay"), compiled.pop("replay")) == ("interpreted", "compiled")
    assert (interpreted.pop("interpreted_because"), compiled.pop("interpreted_because"))[1] is None
    assert compiled == interpreted
