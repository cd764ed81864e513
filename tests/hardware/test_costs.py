"""Cost tables are recovered from timings, interruptions included."""

from __future__ import annotations

import numpy as np
import pytest

from moex.hardware.costs import fit
from moex.hardware.profile import HardwareProfile


def test_costs_are_recovered_in_spite_of_noise_and_interruptions():
    draw = np.random.default_rng(0)
    experts, tokens = draw.integers(2, 9, 3000), draw.choice([1, 1, 1, 16], 3000)
    seconds = 2e-3 + 5e-4 * experts + 1e-4 * (tokens - 1)
    seconds *= 1 + 0.02 * draw.standard_normal(3000)
    seconds[draw.random(3000) < 0.03] += 0.5
    costs = fit(experts, tokens, seconds)
    assert costs.visit_s == pytest.approx(2e-3, rel=0.03)
    assert costs.expert_s == pytest.approx(5e-4, rel=0.03)
    assert costs.token_s == pytest.approx(1e-4, rel=0.03)
    assert costs.separated


def test_equally_many_experts_everywhere_leave_all_in_the_visit():
    costs = fit([2] * 50, [1] * 50, [3e-3] * 50)
    assert (costs.visit_s, costs.expert_s, costs.separated) == (pytest.approx(3e-3), 0, False)
    assert costs.error == pytest.approx(0, abs=1e-12)


def test_loads_and_submits_are_told_apart():
    draw = np.random.default_rng(1)
    loads = draw.integers(0, 3, 2000)
    submits = np.minimum(1, loads) + draw.integers(0, 2, 2000)
    seconds = 1e-3 + 3e-4 * submits + 5e-5 * loads
    seconds *= 1 + 0.01 * draw.standard_normal(2000)
    costs = fit([2] * 2000, [1] * 2000, seconds, loads=loads, submits=submits)
    assert costs.submit_s == pytest.approx(3e-4, rel=0.05)
    assert costs.load_s == pytest.approx(5e-5, rel=0.2)
    told = costs.times(2).seconds(2, 1, loads, submits)
    assert told.mean() == pytest.approx(2 * seconds.mean(), rel=0.01)


def test_no_cost_is_negative():
    costs = fit([1, 2, 3, 4], [1, 1, 1, 1], [4.0, 3.0, 2.0, 1.0])
    assert min(costs.visit_s, costs.expert_s, costs.token_s) >= 0


def test_a_profile_takes_the_costs():
    profile = fit([2, 4], [1, 1], [3.0, 5.0]).profile(HardwareProfile("here", source="measured"))
    assert (profile.visit_s, profile.expert_s) == (pytest.approx(1), pytest.approx(1))
    assert profile.source.startswith("measured; costs fitted")


def test_nothing_recorded_is_refused():
    with pytest.raises(ValueError, match="one of each per visit"):
        fit([], [], [])
