"""A calibration times an offloaded run's visits, and its table adds up to that run."""

from __future__ import annotations

import pytest
import torch

from moex.bench.workload import generate
from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.calibrate import cost_fit, link_fit
from moex.calibrate.measure import break_evens, calibrate, costs_of
from moex.hardware.forecast import transfer_s
from moex.link.base import Link, LinkStats
from moex.prefetch.gate import Gate
from moex.runner.assemble import Setup, load_model, offload
from moex.runs.provenance import provenance
from moex.store import row_break_even
from moex.store.row_break_even import break_even
from moex.types import Plan

PROMPT = [torch.arange(8)[None]]


@pytest.fixture(scope="module")
def loaded(mixtral):
    return load_model(str(mixtral))


def decoded(loaded, timed):
    run = offload(loaded, Setup(LRU(), Memory(3), Gate()))
    run.meter.times_visits = timed
    with run as model:
        generate(model, PROMPT, 6, run.meter)
    return run


def test_visits_are_timed_only_when_asked(loaded):
    assert decoded(loaded, timed=False).meter.visits == []


def test_visit_seconds_are_a_pass_without_its_end_and_its_waiting(loaded):
    run = decoded(loaded, timed=True)
    layers = loaded.geometry.layers
    assert len(run.meter.visits) == 6 * layers
    for number, line in enumerate(run.meter.series):
        visits = run.meter.visits[number * layers : (number + 1) * layers]
        assert min(visits) > 0
        assert sum(visits) <= line["seconds"] - line["stall_s"] + 1e-9


def test_a_calibration_knows_its_machine(loaded):
    profile = calibrate(loaded, tokens=5)
    assert profile.timed
    assert profile.expert_s > 0
    assert min(profile.predict_s, profile.submit_s + profile.handover_s) > 0
    assert min(profile.submit_s, profile.handover_s) >= 0
    assert min(profile.visit_s, profile.load_s, profile.pass_s) >= 0
    token_s = profile.resident_token_s(loaded.geometry.layers, loaded.geometry.top_k)
    assert token_s == pytest.approx(4 * (profile.visit_s + 2 * profile.expert_s) + profile.pass_s)
    assert "fitted to a live run" in profile.source
    assert profile.fitted_on == loaded.folder.name
    assert profile.machine == provenance()["machine"]
    assert profile.expert_bytes == loaded.geometry.expert_bytes
    assert 1e8 < profile.weights_bytes_per_s < 1e13
    skeleton = profile.layer_bytes * loaded.geometry.layers + profile.pass_bytes
    assert 0 < profile.pass_bytes < skeleton <= loaded.skeleton_bytes
    larger = loaded.geometry._replace(expert_bytes=10**9)
    assert profile.on(larger, profile.layer_bytes, profile.pass_bytes).expert_s > 1e-3


def test_experts_on_disk_are_calibrated_on_that_store_s_own_link(mixtral, tmp_path, monkeypatch):
    made = []

    def offloaded(*given, **named):
        made.append(offload(*given, **named))
        return made[-1]

    monkeypatch.setattr(cost_fit, "offload", offloaded)
    loaded = load_model(str(mixtral), store="disk", cache_dir=tmp_path)
    profile = costs_of(loaded, tokens=5)
    (run,) = made
    assert not run.link.emulated
    assert profile.submit_s + profile.handover_s > 0
    decoding = run.meter.phases["decode"]
    load_s = decoding.link_busy_s * loaded.geometry.expert_bytes / decoding.bytes_moved
    assert transfer_s(loaded.geometry, profile) == pytest.approx(load_s)
    assert profile.link_latency_s >= 0


def test_latency_and_bandwidth_are_fitted_to_loads_of_several_sizes():
    exact = {size: 2e-4 + size / 1e9 for size in (4096, 1 << 16, 1 << 20, 1 << 24)}
    assert link_fit.fit(exact) == pytest.approx((2e-4, 1e9))
    latency_s, speed = link_fit.fit({1 << 20: 1e-3, 1 << 22: 5e-3})  # slower when larger
    assert (latency_s, speed) == (0.0, pytest.approx(9e8, rel=0.1))
    assert link_fit.fit({1000: 1e-3}) == pytest.approx((0.0, 1e6))


@pytest.mark.parametrize("store", ["ram", "disk"])
def test_loads_of_several_sizes_cross_the_link_of_their_store(mixtral, tmp_path, store):
    loaded = load_model(str(mixtral), store=store, cache_dir=tmp_path)
    seconds = link_fit.load_seconds(loaded, together=2)
    size = loaded.geometry.expert_bytes
    assert [*seconds] == [4096, size // 4 // 4096 * 4096, size, 4 * size]
    assert all(0 < took < 1 for took in seconds.values())
    loaded.store.close()
    assert not list(tmp_path.glob("moex-*"))


class Ticking(Link):
    """Every call takes so many seconds of a made-up clock."""

    now = 0.0

    def submit(self, plan):
        self.now += 1.0

    def used(self, slot):
        self.now += 0.25

    in_parts, emulated, pinned = True, True, True

    def wait(self, slot):
        self.now += 8.5
        self.stalled(slot, self.now, 8.0)
        return True

    def wait_part(self, slot, size):
        self.now += 2.5
        self.stalled(slot, self.now, 2.0)
        return False

    def restart(self):
        self.now = 0.0

    def stats(self):
        return LinkStats(7, 0.0, self.stall_s)

    def close(self):
        self.now = -1.0


def test_a_timed_link_keeps_what_is_spent_in_its_calls_but_for_waiting(monkeypatch):
    link = Ticking()
    monkeypatch.setattr(cost_fit, "perf_counter", lambda: link.now)
    timed = cost_fit.TimedLink(link)
    timed.submit(Plan(3))
    timed.used(0)
    assert timed.wait(0)
    timed.submit(Plan(4))
    assert not timed.wait_part(0, 1)
    assert timed.seconds == {3: 1.75, 4: 1.5}


def test_a_timed_link_is_the_link_that_it_times():
    link = Ticking()
    timed = cost_fit.TimedLink(link)
    assert (timed.in_parts, timed.emulated, timed.pinned) == (True, True, True)
    timed.submit(Plan(0))
    timed.wait(0)
    assert timed.stats() == (7, 0.0, 8.0)
    timed.restart()
    assert link.now == 0.0
    timed.close()
    assert link.now == -1.0


def test_a_break_even_lies_where_rows_stop_being_faster():
    slower_from_half = {0.0: 1.0, 0.2: 0.4, 0.4: 0.8, 0.6: 1.2, 0.8: 0.9}
    assert break_even(slower_from_half, 100) == pytest.approx(0.5)
    assert break_even({0.0: 1.0, 0.5: 0.5, 1.0: 0.9}, 100) == 1.0
    assert break_even({0.0: 1.0, 0.1: 3.0, 0.5: 0.5}, 100) == 0.01
    one_disturbed = {0.0: 1.0, 0.1: 1.1, 0.2: 0.3, 0.4: 0.5, 0.8: 1.5}
    assert break_even(one_disturbed, 100) == pytest.approx(0.6)


def test_break_evens_are_measured_for_both_stores(loaded, tmp_path):
    found = break_evens(loaded, tmp_path)
    assert set(found) == {"ram", "disk"}
    assert all(0 < share <= 1 for share in found.values())
    assert not list(tmp_path.iterdir())


def test_a_calibrated_break_even_is_the_one_measured_when_packing(loaded, tmp_path, monkeypatch):
    took = {0.0: 5.0, 0.1: 1.0, 0.3: 3.0, 1.0: 9.0}
    monkeypatch.setattr(row_break_even, "measure", lambda pair: took)
    monkeypatch.setattr(row_break_even, "_deciding_s", lambda width: 0.0)
    kept = row_break_even.kept(loaded.layers[0].tensors, "disk", tmp_path)
    assert break_evens(loaded, tmp_path)["disk"] == kept == pytest.approx(0.4)
