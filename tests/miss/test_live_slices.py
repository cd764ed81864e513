"""Slices in a live model: thresholds of 1 change no bit, and replays plan as the run did."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from live_runs import LINK, both, live
from test_exactness import run

from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.cache.variants.slice_cache import SliceCache
from moex.miss.fetch import Fetch
from moex.miss.low_bits import LowBits
from moex.miss.slices import Slices
from moex.prefetch.gate import Gate
from moex.quant.rtn import RTN
from moex.quant.sliced import Sliced
from moex.routing.cache_prior import CachePrior
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.runs.measured import measured
from moex.sim.replay import replay
from moex.trace.format import read_trace, write_trace
from moex.types import DECODE, Prediction

STRONG = [LowBits(0.3, 0.8), LowBits(0.2, 1.0, 0.5), Slices(0.4, 0.0)]
WHOLE = [LowBits(1.0, 1.0), Slices(1.0, 0.0)]
CASES = [("mixtral", "disk"), pytest.param(("olmoe", "ram"), marks=pytest.mark.slow)]


@pytest.fixture(scope="module", params=CASES, ids=["mixtral-disk", "olmoe-ram"])
def loaded(request, checkpoints, tmp_path_factory):
    architecture, store = request.param
    cache, folder = tmp_path_factory.mktemp("packed"), str(checkpoints[architecture])
    found = load_model(folder, store=store, cache_dir=cache, quant=Sliced())
    yield found
    found.store.close()


@pytest.mark.parametrize("miss", STRONG, ids=repr)
@pytest.mark.parametrize(("prefetcher", "hardware"), [(None, None), (Gate(), LINK)])
def test_a_replay_plans_as_the_run_did(loaded, tmp_path, miss, prefetcher, hardware):
    k = loaded.geometry.top_k
    setup = Setup(LRU(), Memory(k + 1, staging=3 * k), prefetcher, hardware, 5, miss)
    _, plans, offloaded = live(loaded, setup)
    path = write_trace(offloaded.recorder.trace(offloaded.provenance), tmp_path / "trace.parquet")
    trace, replayed = read_trace(path), []
    slices = tuple(trace.provenance["slices"])
    decisions = setup.decisions(loaded.store.name, slices=slices)
    report = replay(decisions, trace, hardware, on_plan=replayed.append)
    assert replayed == plans
    row = type(report)()
    row.fill(*measured(offloaded.layer_stats, None))
    logical = ("requests", "demand_misses", "partial_hits", "skipped", "bits_demanded")
    logical += ("bytes_demand", "bytes_prefetch", "bytes_wasted", "prefill_bytes_demand")
    assert {n: getattr(row, n) for n in logical} == {n: getattr(report, n) for n in logical}
    hits = report.resident_hits + report.prefetch_hits + report.late_hits + report.partial_hits
    assert report.requests == hits + report.demand_misses + report.skipped
    assert (report.lossy, report.residency_dependent) == (["miss"], True)
    assert report.interpreted_because == "experts are held in slices"
    assert 2.0 < report.bits_demanded < loaded.bits_per_weight
    assert report.partial_hits > 0
    assert bool(report.skipped) == (isinstance(miss, LowBits) and miss.low < 1)
    whole = Memory(k + 1, staging=3 * k).resolve(loaded.geometry)
    most = (whole * loaded.geometry.layers + 3 * k) * loaded.geometry.expert_bytes
    assert report.capacity_bytes == offloaded.slots.bytes <= most
    assert report.slots == k + 1


@pytest.mark.parametrize("miss", WHOLE, ids=repr)
def test_thresholds_of_1_change_no_bit(loaded, miss):
    memory = Memory(loaded.geometry.top_k + 1)
    expected, _, _ = live(loaded, Setup(LRU(), memory, Gate()))
    logits, _, offloaded = live(loaded, Setup(LRU(), memory, Gate(), miss=miss))
    assert all(map(torch.equal, logits, expected))
    assert isinstance(offloaded.cache, SliceCache)
    counts = offloaded.cache_stats.phases[DECODE]
    assert counts.bytes_wanted == counts.requests * loaded.geometry.expert_bytes


def test_few_bits_change_decoding_and_leave_prompts_alone(loaded):
    memory = Memory(loaded.geometry.top_k + 1)
    expected, _, _ = live(loaded, Setup(LRU(), memory), run)
    logits, _, _ = live(loaded, Setup(LRU(), memory, miss=Slices(0.0, 0.0)), run)
    assert torch.equal(logits[0], expected[0])
    assert not all(map(torch.equal, logits, expected))
    assert all(bool(row.isfinite().all()) for row in logits)


def test_without_a_handler_of_slices_a_record_is_moved_whole(loaded):
    _, plans, offloaded = live(loaded, Setup(LRU(), Memory(5), miss=Fetch()))
    assert all(load.span is None for plan in plans for load in plan.loads)
    assert not any(plan.fills or plan.low or plan.wanted for plan in plans)
    assert offloaded.cache.total_slots == 5 * 4 + 2 * loaded.geometry.top_k


def test_records_of_one_slice_are_refused_with_the_quantizer_to_type(checkpoints):
    loaded = load_model(str(checkpoints["mixtral"]), quant=RTN(4, 32))
    with pytest.raises(ValueError, match=r"^miss=low_bits: .*: try quant=sliced miss=low_bits"):
        offload(loaded, Setup(LRU(), Memory(5), miss=LowBits()))


def test_routing_by_residency_and_slices_work_together(loaded):
    k = loaded.geometry.top_k
    setup = Setup(LFU(), Memory(k + 1), Gate(), miss=Slices(0.3, 0.5), routing=CachePrior(0.5))
    _, plans, offloaded = live(loaded, setup)
    replayed: list = []
    decisions = setup.decisions(loaded.store.name, slices=loaded.layout.slices)
    report = replay(decisions, offloaded.recorder.trace({}), on_plan=replayed.append)
    assert replayed == plans
    assert report.lossy == ["routing", "miss"]


def test_prefetches_are_of_high_slices(loaded):
    memory = Memory(loaded.geometry.top_k + 1, staging=4 * loaded.geometry.top_k)
    _, plans, _ = live(loaded, Setup(LRU(), memory, Gate(), miss=LowBits()))
    spans = {load.span for plan in plans for load in plan.transfers if load.speculative}
    assert spans == {(0, loaded.layout.slices[0])}


def test_an_interrupted_run_is_right_afterwards_and_replays_alike(loaded):
    left = [40]

    def on_plan(plan):
        left[0] -= 1
        if not left[0]:
            raise RuntimeError("interrupted")
        plans.append(plan)

    plans: list = []
    setup = Setup(LRU(), Memory(loaded.geometry.top_k + 1), miss=Slices(0.3, 0.5))
    offloaded = offload(loaded, setup, on_plan=on_plan)
    with offloaded as model:
        with pytest.raises(RuntimeError, match="interrupted"):
            both(model, 1)
        plans.clear()
        ours = both(model, 2)
        offloaded.finish()
    expected, _, _ = live(loaded, setup, lambda model, _: both(model, 2))
    assert all(map(torch.equal, ours, expected))


def test_a_replay_bills_the_link_slice_by_slice(loaded):
    setup = Setup(LRU(), Memory(loaded.geometry.top_k + 1), hardware=LINK, miss=Slices(0.0, 0.5))
    _, plans, offloaded = live(loaded, setup)
    moved = sum(load.span[1] - load.span[0] for plan in plans for load in plan.transfers)
    assert offloaded.link.stats().bytes_moved == moved
    decisions = setup.decisions(loaded.store.name, slices=loaded.layout.slices)
    report = replay(decisions, offloaded.recorder.trace({}), LINK)
    assert report.bytes_moved == report.bytes_demand
    fetched = replay(replace(decisions, miss=None), offloaded.recorder.trace({}), LINK)
    assert report.bytes_moved < 0.8 * fetched.bytes_moved
    assert report.decode_s < fetched.decode_s


def test_rows_of_a_prediction_do_not_matter():
    cache = Setup(LRU(), Memory(2), miss=Slices()).decisions("ram", slices=(600, 400))
    from moex.types import Expert, Geometry

    made = cache.build(Geometry(1, 8, 2, 8, 8, 1000))
    (load,) = made.prefetch([Prediction(Expert(0, 1), 1.0, b"\x01")], 0).loads
    assert (load.rows, load.span) == (None, (0, 600))
