"""A compiled replay gives the interpreted one's row, field for field."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import random_trace

from moex.cache.arc import ARC
from moex.cache.array_policy import ArrayPolicy
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
from moex.prefetch.markov import Markov
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


@contextmanager
def uncompiled():
    """Let the functions that are compiled run as they are: the same text, without the wait."""
    before, numba.config.DISABLE_JIT = numba.config.DISABLE_JIT, True
    try:
        yield
    finally:
        numba.config.DISABLE_JIT = before


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    top_k=st.integers(1, 3),
    prompt=st.sampled_from([0, 2, 5]),
    slots=st.integers(1, EXPERTS),
    pool=st.sampled_from(["layer", "global"]),
    staging=st.integers(1, 8),
    prefetcher=PREFETCHERS,
    hardware=st.sampled_from(
        [
            None,
            LINK,
            replace(LINK, chunk_bytes=1000, link_latency_s=0.0),
            replace(LINK, streams=True),
        ]
    ),
    cold=st.booleans(),
    least=st.sampled_from([None, 0.3, 0.9, NEVER]),
)
def test_every_field_of_the_row_is_the_interpreted_ones(policy, seed, top_k, prompt, **settings):
    trace = recorded(seed, top_k, prompt)
    with uncompiled():
        interpreted, compiled = (
            asdict(row(trace, compiled, policy, **settings)) for compiled in (False, True)
        )
    assert (interpreted.pop("replay"), compiled.pop("replay")) == ("interpreted", "compiled")
    assert (interpreted.pop("interpreted_because"), compiled.pop("interpreted_because"))[1] is None
    assert compiled == interpreted


@dataclass
class Halving(ArrayPolicy):
    """A policy of one's own, with a helper and a hyper-parameter."""

    factor: float = 0.5

    def state(self, scope):
        return {"value": [0.0] * scope.size, "factor": [self.factor]}

    @staticmethod
    def visited(state, now):
        shrink(state.value, state.factor[0])

    @staticmethod
    def used(state, expert, now, hit):
        state.value[expert] += 1.0

    @staticmethod
    def score(state, expert, now):
        return state.value[expert]


def shrink(values, factor):
    for index in range(len(values)):
        values[index] *= factor


@dataclass
class Sets(ArrayPolicy):
    """A policy whose rule keeps a set, which has no compiled form."""

    @staticmethod
    def score(state, expert, now):
        return str({expert}.__class__)


def both(policy, prefetcher=None, hardware=None):
    """The rows of an interpreted and of a really compiled replay."""
    trace = recorded(7, 2, 5)
    settings = (policy, 4, "layer", None, prefetcher, hardware, True, 0.3)
    return [row(trace, compiled, *settings) for compiled in (False, True)]


@pytest.mark.study
@pytest.mark.parametrize(
    ("policy", "prefetcher", "hardware"),
    [(Halving(0.3), None, None), (Random(), Gate(), LINK)],
    ids=["a policy of one's own", "with all parts"],
)
def test_machine_code_computes_what_the_interpreter_does(policy, prefetcher, hardware):
    interpreted, compiled = both(policy, prefetcher, hardware)
    assert compiled.replay == "compiled"
    again = replace(compiled, replay="interpreted", interpreted_because="asked for")
    assert asdict(again) == asdict(interpreted)


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
@pytest.mark.parametrize("prefetcher", [None, Gate(depth=2)], ids=repr)
def test_machine_code_of_every_policy_does(policy, prefetcher):
    test_machine_code_computes_what_the_interpreter_does(
        policy, prefetcher, LINK if prefetcher else None
    )


@pytest.mark.study
def test_a_rule_that_does_not_compile_is_interpreted_and_named():
    _, report = both(Sets())
    assert report.replay == "interpreted"
    assert re.fullmatch(
        r".*test_compiled.py, line \d+ does not compile: .+", report.interpreted_because
    )


@pytest.mark.parametrize(
    ("policy", "prefetcher", "why"),
    [
        (ARC(), None, "cache=ARC is not in array form"),
        (LRU(), Markov(), "prefetch=Markov is asked visit by visit"),
        (LRU(), Gate(mass=0.5), "prefetch=Gate is asked visit by visit"),
    ],
    ids=["queues", "a state of its own", "a sum of scores"],
)
def test_what_has_no_compiled_form_is_said(policy, prefetcher, why):
    _, report = both(policy, prefetcher)
    assert (report.replay, report.interpreted_because) == ("interpreted", why)


@pytest.mark.parametrize("slots", [0, [1, 4, 2]], ids=str)
def test_no_slots_and_slots_by_layer_are_interpreted(slots):
    trace = recorded(7, 2, 0)
    report = row(trace, True, LRU(), slots, "layer", None, None, None, False, None)
    assert report.interpreted_because == "layers have different numbers of slots, or none"
    assert 0 < report.demand_misses <= report.requests


def test_short_traces_are_interpreted_unless_asked_for():
    trace = recorded(7, 2, 0)
    report = row(trace, None, LRU(), 4, "layer", None, None, None, False, None)
    assert report.interpreted_because == "the trace has fewer than 300000 accesses"


def test_a_subclass_with_a_hook_of_its_own_is_interpreted():
    class Newest(LRU):
        def victim(self, candidates, now):
            return candidates[-1]

    _, report = both(Newest())
    assert report.interpreted_because == "cache=Newest is not in array form"
