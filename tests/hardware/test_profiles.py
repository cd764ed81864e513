"""Every hardware profile is built and says plausible things."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from traces import random_trace

import moex
from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.hardware.profile import READ_SHARE, HardwareProfile
from moex.runner.assemble import Setup
from moex.runs.provenance import machine
from moex.sim.simulator import simulate

FOLDER = Path(__file__).parents[2] / "conf" / "hardware"
PROFILES = sorted(path for path in FOLDER.glob("*.yaml") if path.stem != "scale_model")


def load(path):
    fields = yaml.safe_load(path.read_text())
    for base in fields.pop("defaults", []):  # a profile may be another one with a few changes
        if base != "_self_":
            fields = yaml.safe_load((FOLDER / f"{base}.yaml").read_text()) | fields
    assert fields.pop("_target_") == "moex.hardware.profile.HardwareProfile"
    return HardwareProfile(**fields)


def test_all_are_there():
    names = {path.stem for path in PROFILES}
    assert names >= {"auto", "t4", "rtx3060", "rtx3080m", "rtx3090", "rtx4090", "rtx5090"}
    assert names >= {"a100", "h100", "rtx_a5000", "rtx_a6000", "l40s", "rtx4060ti", "rtx2080ti"}
    assert names >= {"laptop_pcie3", "laptop_pcie4", "laptop_pcie5"}


@pytest.mark.parametrize("path", PROFILES, ids=lambda path: path.stem)
def test_a_profile_is_named_like_its_file_and_sourced(path):
    profile = load(path)
    assert profile.name == path.stem
    if profile.timed:
        assert profile.source
        if "made up" not in profile.source:
            assert 5e9 < profile.link_bytes_per_s < profile.host_bytes_per_s * 2
            assert profile.link_bytes_per_s < profile.memory_bytes_per_s
        assert 1e-4 < profile.visit_s < 2e-2
        trace = random_trace(0, tokens=5)
        report = simulate(trace, ExpertCache(LRU(), trace.geometry, 3), hardware=profile)
        assert report.tokens_per_second > 0
    else:
        assert path.stem == "auto"


OTHER = HardwareProfile(
    "measured", 1e9, visit_s=1e-3, expert_s=1e-4, expert_bytes=1, layer_bytes=0, machine="a phone"
)


def test_a_profile_measured_on_another_machine_is_refused_live():
    with pytest.raises(
        ValueError, match=r"hardware\.machine='a phone'; .*mode=calibrate"
    ) as caught:
        Setup(LRU(), hardware=OTHER)
    assert "\n" not in str(caught.value)
    assert Setup(LRU(), hardware=replace(OTHER, machine=machine())).hardware
    assert Setup(LRU(), hardware=replace(OTHER, machine="")).hardware


def test_a_profile_measured_on_another_machine_may_be_forecast():
    trace = random_trace(0, tokens=5)
    here = replace(OTHER, expert_bytes=trace.geometry.expert_bytes)
    assert moex.simulate(trace, hardware=here).tokens_per_second > 0


def test_seed_1_costs_add_up_to_its_fixed_time():
    for name, fixed_s in {"a100": 0.277, "rtx3080m": 0.369, "rtx3060": 0.217, "t4": 0.493}.items():
        profile = load(next(path for path in PROFILES if path.stem == name))
        assert 32 * profile.visit_s + 64 * profile.expert_s == pytest.approx(fixed_s, rel=1e-3)


def test_roofline_costs_add_up_to_the_published_ceiling():
    for name, tokens_per_s in {"rtx3090": 110, "rtx4090": 118, "rtx5090": 210}.items():
        profile = load(next(path for path in PROFILES if path.stem == name))
        launches_s = 32 * 15 * 7.5e-6
        token_s = 32 * profile.visit_s + 64 * profile.expert_s - launches_s
        assert 1 / token_s == pytest.approx(tokens_per_s, rel=0.01)


def test_roofline_costs_follow_from_the_memory_bandwidth_they_name():
    profiles = [each for each in map(load, PROFILES) if "roofline" in each.source]
    assert len(profiles) >= 12
    for profile in profiles:
        rate = READ_SHARE * profile.memory_bytes_per_s
        visit_s = profile.layer_bytes / rate + 15 * 7.5e-6
        assert profile.visit_s == pytest.approx(visit_s, rel=1e-4), profile.name
        assert profile.expert_s == pytest.approx(profile.expert_bytes / rate, rel=1e-4)


def test_a_link_has_the_bandwidth_that_its_lanes_move():
    moves = {"3.0 x16": 12e9, "4.0 x8": 13.4e9, "4.0 x16": 25e9, "5.0 x8": 25e9, "5.0 x16": 50e9}
    for path in PROFILES:
        link = re.search(r"^# Link: PCIe (\d\.0 x\d+)", path.read_text(), re.MULTILINE)
        assert not link or load(path).link_bytes_per_s == moves[link[1]], path.stem
