"""Costs belong to a model: on another one they follow its bytes, or are refused."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from experiments.harness import machine
from moex.hardware.profile import HardwareProfile, estimated_layer_bytes
from moex.types import Geometry

OLMOE = Geometry(16, 64, 8, 2048, 1024, 3 * 2048 * 1024 * 2)
FITTED = HardwareProfile(
    "fitted",
    1e10,
    visit_s=1e-3,
    expert_s=5e-4,
    pass_s=1e-4,
    host_expert_s=2e-3,
    fitted_on="small",
    expert_bytes=1_000_000,
    layer_bytes=200_000,
    pass_bytes=300_000,
    weights_bytes_per_s=1e10,
)


def test_costs_grow_with_the_bytes_that_are_read():
    here = FITTED.on(OLMOE._replace(expert_bytes=3_000_000), 400_000, 800_000)
    assert here.expert_s == pytest.approx(5e-4 + 2e-4)
    assert here.visit_s == pytest.approx(1e-3 + 2e-5)
    assert here.pass_s == pytest.approx(1e-4 + 5e-5)
    assert here.host_expert_s == pytest.approx(6e-3)
    assert (here.submit_s, here.link_bytes_per_s) == (FITTED.submit_s, FITTED.link_bytes_per_s)
    assert here.on(OLMOE._replace(expert_bytes=3_000_000), 400_000, 800_000) is here


def test_no_cost_falls_below_zero():
    cheap = replace(FITTED, expert_s=1e-5, visit_s=1e-6, pass_s=0.0)
    here = cheap.on(OLMOE._replace(expert_bytes=1000), 0, 0)
    assert (here.expert_s, here.visit_s, here.pass_s) == (0, 0, 0)


def test_on_its_own_model_a_profile_is_as_it_was():
    own = OLMOE._replace(expert_bytes=1_000_000)
    assert FITTED.on(own) is FITTED.on(own, 200_000, 300_000) is FITTED


def test_a_link_without_costs_belongs_to_no_model():
    link = HardwareProfile("link", 1e9, memory_bytes_per_s=1e11)
    assert link.on(OLMOE) is link


def test_kernels_that_reach_the_memory_s_speed_do_so_on_every_model():
    fast = machine("rtx4090")
    here, rate = fast.on(OLMOE, 40_000_000), 0.85 * fast.memory_bytes_per_s
    assert here.expert_s == pytest.approx(OLMOE.expert_bytes / rate, rel=0.01)
    assert here.visit_s == pytest.approx(15 * 7.5e-6 + 40_000_000 / rate, rel=0.01)


def test_unknown_bytes_of_a_layer_are_those_of_attention():
    mixtral = Geometry(32, 8, 2, 4096, 14336, 1)
    attention = 2 * (2 * 4096 * 4096 + 2 * 4096 * 1024)
    assert estimated_layer_bytes(mixtral) == attention
    assert FITTED.on(OLMOE) == FITTED.on(OLMOE, estimated_layer_bytes(OLMOE))


LACKING = {
    "the model": (replace(FITTED, expert_bytes=None), OLMOE, "without expert_bytes"),
    "a layer": (replace(FITTED, layer_bytes=None), OLMOE, "without layer_bytes"),
    "a rate": (replace(FITTED, weights_bytes_per_s=None), OLMOE, "expected weights_bytes_per_s"),
    "widths": (FITTED, OLMOE._replace(hidden=0), "this geometry has hidden=0"),
}


@pytest.mark.parametrize("lacking", LACKING)
def test_what_scaling_needs_is_asked_for_and_works_when_typed(lacking):
    profile, geometry, line = LACKING[lacking]
    with pytest.raises(ValueError, match=f"hardware=fitted: has .*{line}") as refused:
        profile.on(geometry)
    assert len(str(refused.value).splitlines()) == 1
    name, value = re.search(r"try \+\+hardware\.(\w+)=(\S+)", str(refused.value)).groups()
    assert replace(profile, **{name: float(value)}).on(geometry).expert_s >= 5e-4


@pytest.mark.parametrize("name", ["expert_bytes", "layer_bytes", "pass_bytes"])
def test_bytes_below_zero_are_refused(name):
    with pytest.raises(ValueError, match=rf"hardware.{name}=-1: expected bytes, at least"):
        replace(FITTED, **{name: -1})
