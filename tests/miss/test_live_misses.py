"""Misses in a live model: the same bits, the same plans in a replay, every access booked."""

from __future__ import annotations

import pytest
import torch
from test_exactness import run
from transformers import AutoModelForCausalLM

from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.evals.stepwise import stepwise
from moex.hardware.profile import HardwareProfile
from moex.miss.host import Host
from moex.miss.hybrid import Hybrid
from moex.miss.skip import Skip
from moex.prefetch.gate import Gate
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.sim.simulator import simulate
from moex.trace.format import read_trace, write_trace
from moex.trace.record import TraceRecorder
from moex.types import DECODE, Access, Geometry

LINK = HardwareProfile(
    "link", link_bytes_per_s=3e8, link_latency_s=1e-5, chunk_bytes=8192, host_expert_s=2e-4
)
HANDLERS = [Host(), Hybrid(), Hybrid(load_s=1e-3, host_s=1e-3)]


@pytest.fixture(scope="module")
def loaded(checkpoints):
    return load_model(str(checkpoints["olmoe"]))


@pytest.fixture(scope="module")
def expected(checkpoints):
    stock = AutoModelForCausalLM.from_pretrained(
        checkpoints["olmoe"], dtype=torch.float32, experts_implementation="grouped_mm"
    )
    return run(stock.eval(), seed=3)


@pytest.mark.parametrize("miss", HANDLERS, ids=repr)
@pytest.mark.parametrize("prefetcher", [None, Gate()], ids=repr)
def test_computing_on_the_host_changes_no_bit_and_replays_alike(
    loaded, expected, tmp_path, miss, prefetcher
):
    live, memory = [], Memory(5)
    offloaded = offload(
        loaded, Setup(LRU(), memory, prefetcher, LINK, miss=miss), on_plan=live.append
    )
    with offloaded as model:
        assert all(map(torch.equal, run(model, seed=3), expected))
        offloaded.finish()
    counts = offloaded.cache_stats.phases[DECODE]
    assert counts.host_computed > 10
    assert (
        counts.requests
        == counts.resident_hits
        + counts.prefetched_hits
        + counts.demand_misses
        + counts.host_computed
    )
    assert offloaded.host.emulated
    trace = read_trace(write_trace(offloaded.recorder.trace({}), tmp_path / "trace.parquet"))
    replayed, handler = [], miss.bound(loaded.geometry, LINK)
    cache = ExpertCache(LRU(), loaded.geometry, 5, split=handler.split)
    report = simulate(trace, cache, prefetcher, LINK, on_plan=replayed.append)
    assert replayed == live
    assert report.host_computed == counts.host_computed
    assert report.stall_s > 0


def test_skipping_replays_alike_and_changes_logits(loaded, expected, tmp_path):
    live, miss = [], Skip(0.23)
    offloaded = offload(loaded, Setup(LRU(), Memory(5), Gate(), miss=miss), on_plan=live.append)
    with offloaded as model:
        logits = run(model, seed=3)
        offloaded.finish()
    assert torch.equal(logits[0], expected[0])  # prefill fetches everything
    assert not all(map(torch.equal, logits, expected))
    assert all(bool(row.isfinite().all()) for row in logits)
    assert offloaded.cache_stats.phases[DECODE].skipped > 0
    trace = read_trace(write_trace(offloaded.recorder.trace({}), tmp_path / "trace.parquet"))
    replayed = []
    cache = ExpertCache(LRU(), loaded.geometry, 5, split=miss.split)
    report = simulate(trace, cache, Gate(), on_plan=replayed.append)
    assert replayed == live
    assert report.skipped == offloaded.cache_stats.phases[DECODE].skipped


def test_weights_of_what_is_left_are_scaled_to_the_same_sum():
    from moex.runner.layer_forward import LayerForward
    from moex.types import Expert

    index = torch.tensor([[3, 1], [1, 2]])
    work = LayerForward(
        None, torch.zeros(2, 4), index, torch.tensor([[0.6, 0.3], [0.5, 0.5]]), index.tolist()
    )
    work.skip([Expert(0, 1)])
    assert torch.allclose(work.weights, torch.tensor([[0.9, 0.0], [0.0, 1.0]]))
    work.skip([Expert(0, 2), Expert(0, 1)])
    assert work.weights[1].tolist() == [0.0, 0.0]


def test_a_text_fed_token_by_token_scores_as_a_whole(loaded):
    ids = torch.arange(2, 12)[None]
    with offload(loaded, Setup(LRU())) as model, torch.inference_mode():
        whole, kind = model(ids).logits, type(model)
        cold = []
        with stepwise(model, lambda: cold.append(1)):
            steps = model(ids).logits
            with pytest.raises(ValueError, match="2 texts at once: expected one"):
                model(ids.expand(2, -1))
        assert type(model) is kind
    assert torch.allclose(whole, steps, atol=1e-5)
    assert cold == [1]


def test_the_host_needs_experts_in_memory_and_a_speed(loaded, checkpoints, tmp_path):
    disk = load_model(str(checkpoints["olmoe"]), store="disk", cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"memory.store=disk: .* expected memory.store=ram"):
        offload(disk, Setup(LRU(), Memory(5), miss=Host()))
    disk.store.close()
    silent = HardwareProfile("silent", link_bytes_per_s=1e9)
    with pytest.raises(ValueError, match=r"hardware=silent: .* try \+\+hardware.host_expert_s"):
        offload(loaded, Setup(LRU(), Memory(5), hardware=silent, miss=Host()))


def test_the_simulated_host_works_beside_the_computing_lane():
    geometry = Geometry(1, 4, 2, 8, 8, expert_bytes=1000)
    recorder = TraceRecorder(geometry)
    for clock, experts in enumerate([(0, 1), (2, 3), (0, 2)]):
        recorder.add(0, Access(clock, clock, 0, DECODE, experts))
    machine = HardwareProfile(link_bytes_per_s=1e3, host_expert_s=2.0, expert_s=0.5)
    cache = ExpertCache(LRU(), geometry, 2, split=Host().split)
    report = simulate(recorder.trace({}), cache, None, machine)
    # Two loads, the first computed under the second: 2. Two on the host: 4. One hit under 2: 1.5.
    assert report.stall_s == pytest.approx(2.0 - 0.5 + 4.0 + 1.5)
    assert (report.demand_misses, report.host_computed, report.resident_hits) == (2, 3, 1)
