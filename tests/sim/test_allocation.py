"""Slots by layer: the dynamic program finds the fewest loads, from curves that replays confirm."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import random_trace

from moex.cache.arc import ARC
from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.sim.allocation import allocate, expected, layer_loads, refuse_other
from moex.sim.simulator import simulate


@settings(max_examples=60, deadline=None)
@given(
    loads=st.lists(
        st.lists(st.integers(0, 50), min_size=5, max_size=5), min_size=1, max_size=4
    ).map(lambda rows: np.array([sorted(row, reverse=True) for row in rows])),
    total=st.integers(0, 16),
)
def test_the_dynamic_program_loads_least_of_all_allocations(loads, total):
    layers, sizes = loads.shape
    total = min(total, layers * (sizes - 1))
    every = product(range(sizes), repeat=layers)
    best = min(expected(loads, list(slots)) for slots in every if sum(slots) == total)
    for how in ("equal", "marginal", "dynamic"):
        slots = allocate(how, loads, total)
        assert sum(slots) == total
        assert 0 <= min(slots) <= max(slots) < sizes
    assert expected(loads, allocate("dynamic", loads, total)) == best


def test_marginal_gains_are_misled_by_a_curve_with_a_step():
    loads = np.array([[90, 90, 0], [50, 49, 48]])
    assert allocate("marginal", loads, 2) == [0, 2]
    assert allocate("dynamic", loads, 2) == [2, 0]


@pytest.mark.parametrize("policy", [LRU(), ARC()], ids=repr)
def test_expected_loads_are_those_of_a_replay(policy):
    trace = random_trace(3, 3, 6, 2, tokens=25, sequences=3, prompt=3)
    trace.resets = (31,)
    loads = layer_loads(trace, policy)
    for slots in ([0, 2, 6], [1, 1, 4], [3, 3, 3]):
        report = simulate(trace, ExpertCache(policy, trace.geometry, slots))
        assert report.demand_misses == expected(loads, slots)


def test_a_trace_of_another_model_is_refused():
    trace = random_trace(3, 3, 6, 2)
    refuse_other(trace, trace.geometry._replace(expert_bytes=7))
    with pytest.raises(ValueError, match=r"is of 3 layers x 6 experts, top-2, the model has 4 "):
        refuse_other(trace, trace.geometry._replace(layers=4))
