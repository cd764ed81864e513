"""Expected speeds agree with simulations, and with ceilings as others have worked them out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from traces import literal

from experiments.harness import machine
from moex.api import simulate
from moex.cache.lru import LRU
from moex.hardware.forecast import early_s, forecast
from moex.hardware.profile import READ_SHARE, HardwareProfile
from moex.trace.synthetic import generate
from moex.types import Geometry

MIXTRAL = Geometry(32, 8, 2, 4096, 14336, 99_090_432)
MODELS = {
    "tiny": (Geometry(6, 8, 2, 256, 384, 589_824), 267_370),
    "olmoe": (Geometry(16, 64, 8, 2048, 1024, 12_582_912), 33_816_576),
    "mixtral": (MIXTRAL, 83_951_616),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("profile", ["rtx3060", "h100"])
def test_a_forecast_is_what_a_simulation_gives_at_its_hit_rate(name, profile):
    geometry, layer_bytes = MODELS[name]
    trace = generate(geometry, 60)
    trace.provenance |= {"layer_bytes": layer_bytes, "pass_bytes": 0}
    hardware = machine(profile)
    report = simulate(trace, LRU(), 0.5, hardware=hardware)
    expected = forecast(geometry, hardware.on(geometry, layer_bytes), report.hit_rate)
    assert 0.2 < report.hit_rate < 0.9
    assert expected.plain == pytest.approx(report.tokens_per_second, rel=0.05)
    assert expected.plain <= expected.hidden


def test_without_misses_a_forecast_is_the_resident_speed():
    hardware = HardwareProfile("x", 1e9, visit_s=1e-3, expert_s=2e-4, pass_s=3e-3, load_s=1.0)
    expected = forecast(MIXTRAL, hardware, 1.0)
    resident = 1 / hardware.resident_token_s(MIXTRAL.layers, MIXTRAL.top_k)
    assert expected.plain == expected.hidden == pytest.approx(resident)


@pytest.mark.parametrize(
    ("link", "memory", "hit_rate", "serial", "overlapped"),
    [(12e9, 320e9, 0.5, 3.4, 3.8), (25e9, 936e9, 0.9, 29.0, 39.4), (50e9, 1792e9, 0.0, 7.6, 7.9)],
)
def test_ceilings_of_mixtral_at_four_bits(link, memory, hit_rate, serial, overlapped):
    rate = READ_SHARE * memory
    costs = {"visit_s": 0.9e9 / 32 / rate, "expert_s": MIXTRAL.expert_bytes / rate}
    expected = forecast(MIXTRAL, HardwareProfile("", link, **costs), hit_rate)
    assert expected.hidden == pytest.approx(overlapped, abs=0.06)
    assert serial - 0.06 < expected.plain < overlapped


def test_a_streaming_link_hides_gate_and_up_behind_an_expert_s_last_third():
    link = HardwareProfile("x", 1e9, visit_s=1e-3, expert_s=6e-3, chunk_bytes=1 << 20, streams=True)
    assert early_s(MIXTRAL, link) == pytest.approx(4e-3)  # two thirds of computing
    assert early_s(MIXTRAL, replace(link, expert_s=1.0)) == pytest.approx(99_090_432 / 3e9)
    assert early_s(MIXTRAL, replace(link, streams=False)) == 0
    assert early_s(MIXTRAL, replace(link, chunk_bytes=1 << 30)) == 0  # moved in one piece
    trace = literal([(0, (0,))], top_k=1, expert_bytes=30_000_000)
    report = simulate(trace, LRU(), 1, hardware=replace(link, expert_bytes=30_000_000))
    assert report.decode_s == pytest.approx(1e-3 + 30e-3 + 2e-3)  # the down projection is left
    expected = forecast(trace.geometry, link, 0.0)
    assert expected.plain == pytest.approx(1 / report.decode_s)
