"""Deferral: what the cache plans for it, what a live model computes, what a replay makes of it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from itertools import count

import pytest
import torch
from live_runs import both
from test_exactness import run
from transformers import AutoModelForCausalLM

from moex.cache.base import ScoredPolicy
from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.cache.none import NoCache
from moex.decisions.decisions import Decisions
from moex.hardware.profile import HardwareProfile
from moex.miss.defer import Defer
from moex.miss.fetch import Fetch
from moex.prefetch.gate import Gate
from moex.routing.cache_prior import CachePrior
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.runs.measured import measured
from moex.runs.report import Report
from moex.sim.replay import replay
from moex.sim.simulator import simulate
from moex.trace.format import read_trace, write_trace
from moex.trace.record import TraceRecorder
from moex.types import DECODE, PREFILL, Access, Expert, Geometry, Prediction

LINK = HardwareProfile("link", link_bytes_per_s=5e8, link_latency_s=1e-5, chunk_bytes=8192)
GEOMETRY = Geometry(3, 6, 2, 8, 8, expert_bytes=1000)
SCORES = (0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
PARTS = ("resident_hits", "prefetch_hits", "late_hits", "partial_hits", "demand_misses")
PARTS += ("host_computed", "skipped", "deferred")


def cache_of(policy=None, slots=2, pool="layer", staging=None, experts=1):
    handler = Defer(experts)
    return ExpertCache(policy or LRU(), GEOMETRY, slots, pool, staging, split=handler.split)


def visit(cache, clock, layer, *experts, phase=DECODE):
    (plan,) = cache.request(Access(clock, clock, layer, phase, experts, SCORES))
    return plan


def loaded_of(plan):
    return [load.expert.index for load in plan.loads]


def test_the_lowest_miss_is_loaded_last_and_is_due_in_the_next_layer():
    cache = cache_of()
    plan = visit(cache, 0, 0, 3, 1)
    assert (plan.deferred, loaded_of(plan)) == ((Expert(0, 3),), [1, 3])
    assert [expert for expert, _, _ in plan.arrivals] == [Expert(0, 1)]
    after = visit(cache, 1, 1, 0, 1)
    assert after.due == ((Expert(0, 3), plan.loads[1].slot),)
    assert visit(cache, 2, 2, 0, 1).due == ((Expert(1, 1), after.loads[1].slot),)


def test_what_is_resident_is_not_deferred():
    cache = cache_of()
    visit(cache, 0, 0, 0, 5, phase=PREFILL)
    plan = visit(cache, 1, 0, 2, 5)
    assert (plan.deferred, plan.hits, loaded_of(plan)) == ((), (Expert(0, 5),), [2])


def test_neither_prompts_nor_the_last_layer_defer():
    cache = cache_of()
    assert not visit(cache, 0, 0, 0, 1, phase=PREFILL).deferred
    assert not visit(cache, 1, 2, 0, 1).deferred
    assert visit(cache, 2, 1, 0, 1).deferred


def test_a_deferred_expert_that_is_not_admitted_keeps_its_slot_for_one_visit():
    cache = cache_of(NoCache())
    slot = visit(cache, 0, 0, 0, 1).loads[1].slot
    assert cache.occupancy() == (0, 0)
    assert slot not in cache._free
    plans = cache.request(Access(1, 1, 1, DECODE, (0, 1), SCORES))
    assert next(plans).due == ((Expert(0, 1), slot),)
    assert slot not in cache._free
    visit(cache, 2, 2, 0, 1)
    assert slot in cache._free


@dataclass
class Newest(ScoredPolicy):
    """Evicts what was inserted last."""

    def reset(self, scope):
        self.entered = {}

    def on_insert(self, expert, now):
        self.entered[expert] = len(self.entered)

    def score(self, expert, now):
        return -self.entered[expert]


def test_a_deferred_expert_is_no_victim_of_the_next_visit():
    for experts, victim in ((1, Expert(0, 0)), (0, Expert(0, 1))):
        cache = cache_of(Newest(), pool="global", experts=experts)
        for clock, layer in enumerate((1, 2)):
            visit(cache, clock, layer, 4, 5, phase=PREFILL)
        visit(cache, 2, 0, 0, 1)
        plan = visit(cache, 3, 1, 4, 0)
        assert [each.expert for each in plan.evictions] == [victim]


def test_what_a_broken_pass_left_is_not_due_in_another():
    cache = cache_of(NoCache())
    visit(cache, 0, 0, 0, 1)
    assert visit(cache, 1, 0, 0, 1).due == ()
    visit(cache, 2, 1, 0, 1)
    cache.finish(2)
    assert visit(cache, 3, 2, 0, 1).due == ()
    assert len(cache._free) + len(cache._released) + 2 >= cache.total_slots


def test_one_staging_slot_is_left_for_the_next_visit():
    assert not visit(cache_of(staging=1), 0, 0, 0, 1).deferred
    assert visit(cache_of(staging=2), 0, 0, 0, 1).deferred
    cache = cache_of(NoCache(), staging=4)
    visit(cache, 0, 0, 0, 1)
    predictions = [Prediction(Expert(1, index), 1.0) for index in range(4)]
    assert len(cache.prefetch(predictions, 0).loads) == 1, "the deferred one takes a slot"


@pytest.fixture(scope="module", params=["mixtral", "olmoe", "qwen3_moe"])
def loaded(request, checkpoints):
    return load_model(str(checkpoints[request.param]))


def live(loaded, setup, workload=both, on_plan=None):
    plans: list = []

    def keep(plan):
        plans.append(plan)
        if on_plan is not None:
            on_plan(plan)

    offloaded = offload(loaded, setup, on_plan=keep)
    with offloaded as model:
        logits = workload(model, 3)
        offloaded.finish()
    return logits, plans, offloaded


def test_deferring_nothing_changes_neither_logits_nor_plans(loaded):
    memory = Memory(loaded.geometry.top_k + 1)
    setup = Setup(LRU(), memory, Gate(), LINK, miss=Fetch())
    expected, plans, _ = live(loaded, setup)
    logits, ours, _ = live(loaded, replace(setup, miss=Defer(0)))
    assert all(map(torch.equal, logits, expected))
    assert ours == plans


@pytest.mark.parametrize("pool", ["layer", "global"])
@pytest.mark.parametrize("policy", [LRU(), NoCache()], ids=repr)
@pytest.mark.parametrize(
    ("prefetcher", "routing"), [(None, None), (Gate(), None), (Gate(), CachePrior(0.5))], ids=repr
)
def test_a_replay_defers_as_the_run_did(loaded, tmp_path, pool, policy, prefetcher, routing):
    k = loaded.geometry.top_k
    memory, miss = Memory(k + 1, pool=pool, staging=3 * k), Defer(k - 1)
    setup = Setup(policy, memory, prefetcher, LINK, 5, miss, routing=routing)
    _, plans, offloaded = live(loaded, setup)
    path = write_trace(offloaded.recorder.trace({}), tmp_path / "trace.parquet")
    replayed: list = []
    report = replay(setup.decisions("ram"), read_trace(path), LINK, on_plan=replayed.append)
    assert replayed == plans
    assert report.lossy == (["routing", "miss"] if routing else ["miss"])
    assert report.residency_dependent
    row = Report()
    row.fill(*measured(offloaded.layer_stats, None))
    assert (row.requests, row.deferred) == (report.requests, report.deferred)
    assert report.deferred > 5
    assert report.requests == sum(getattr(report, part) for part in PARTS)
    assert any(len(plan.deferred) < len(plan.loads) for plan in plans if plan.deferred)


def reference(folder, plans, workload):
    """Stock's logits, with the outputs of deferred experts added one layer later."""
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    deferred = {plan.clock: plan.deferred for plan in plans if plan.deferred}
    clock, late = count(), [0.0]

    def deferring(whole):
        def forward(hidden, index, weights):
            gone = deferred.get(next(clock), ())
            later = torch.isin(index, torch.tensor([expert.index for expert in gone]))
            now = whole(hidden, index, weights.masked_fill(later, 0.0)) + late[0]
            late[0] = whole(hidden, index, weights.masked_fill(~later, 0.0)) if gone else 0.0
            return now

        return forward

    for layer in stock.model.layers:
        layer.mlp.experts.forward = deferring(layer.mlp.experts.forward)
    return workload(stock, 3)


def test_deferred_outputs_are_added_one_layer_later(loaded):
    k = loaded.geometry.top_k
    setup = Setup(LRU(), Memory(k), Gate(), miss=Defer(k - 1))
    logits, plans, _ = live(loaded, setup)
    expected = reference(loaded.folder, plans, both)
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(logits, expected, strict=True))
    plain, _, _ = live(loaded, replace(setup, miss=None))
    assert max(float((a - b).abs().max()) for a, b in zip(logits, plain, strict=True)) > 1e-3


class Broken(Exception):
    pass


@pytest.mark.parametrize("where", ["visit", "between"])
def test_an_output_of_a_broken_pass_is_added_to_no_other(checkpoints, where):
    loaded, armed = load_model(str(checkpoints["olmoe"])), []

    def breaks(*_):
        if armed:
            raise Broken

    def on_plan(plan):
        if armed and plan.due:
            raise Broken

    setup = Setup(LRU(), Memory(4), Gate(), miss=Defer(3))
    plans: list = []
    offloaded = offload(loaded, setup, on_plan=lambda plan: (plans.append(plan), on_plan(plan)))
    with offloaded as model, torch.inference_mode():
        if where == "between":
            model.model.layers[1].register_forward_pre_hook(breaks)
        stock = run(AutoModelForCausalLM.from_pretrained(loaded.folder).eval(), 3)
        past = model(torch.arange(2, 14)[None], use_cache=True).past_key_values
        armed.append(True)
        with pytest.raises(Broken):
            model(torch.tensor([[60]]), past_key_values=past)
        armed.clear()
        if where == "visit":
            assert plans.pop().due, "abandoned with its visit, which a replay does not make"
        else:
            assert any(plan.deferred for plan in plans[-2:])
        assert torch.equal(run(model, 3)[0], stock[0]), "a prompt, to which nothing is added"
        offloaded.finish()
    replayed: list = []
    replay(setup.decisions("ram"), offloaded.recorder.trace({}), on_plan=replayed.append)
    assert replayed == plans


def test_an_output_of_another_threads_pass_is_not_added(checkpoints):
    loaded, inside = load_model(str(checkpoints["olmoe"])), []
    offloaded = offload(loaded, Setup(NoCache(), Memory(4), miss=Defer(3)))
    with offloaded as model, torch.inference_mode():
        pasts = [model(torch.arange(2, 9)[None].expand(n, -1)).past_key_values for n in (1, 2)]

        @torch.inference_mode()
        def other():
            with pytest.raises(Broken):
                model(torch.tensor([[60], [70]]), past_key_values=pasts[1])

        def second_layer(*_):
            inside.append(True)
            if len(inside) == 2:
                raise Broken
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()

        handle = model.model.layers[1].register_forward_pre_hook(second_layer)
        assert model(torch.tensor([[50]]), past_key_values=pasts[0]).logits.shape[0] == 1
        handle.remove()
    assert len(inside) == 2


def test_a_simulated_visit_waits_for_a_deferred_load_one_layer_later():
    recorder = TraceRecorder(GEOMETRY)
    for clock, layer in enumerate((0, 1, 2)):
        recorder.add(0, Access(clock, 0, layer, DECODE, (0, 1), SCORES))
    machine = HardwareProfile(link_bytes_per_s=1e3, visit_s=0.25, expert_s=0.125)
    times = {}
    for experts in (0, 1):
        report = simulate(recorder.trace({}), cache_of(experts=experts), None, machine)
        times[experts] = report.decode_s
        assert (report.demand_misses, report.deferred) == (6 - 2 * experts, 2 * experts)
    # Two loads of 1 s a visit: the link waits while its last expert and the next visit's beginning
    # are computed. With the second load deferred it never waits.
    assert times[0] == pytest.approx(0.25 + 3 * 2.0 + 2 * (0.125 + 0.25) + 0.125)
    assert times[1] == pytest.approx(0.25 + 6 * 1.0 + 0.125)


def test_deferral_refuses_what_cannot_be_in_one_line():
    with pytest.raises(ValueError, match=r"miss.experts=2: .* try miss.experts=1"):
        Defer(2).bound(GEOMETRY, None)
    with pytest.raises(ValueError, match="miss=defer: the visits have no router scores"):
        Defer(1).split(Access(0, 0, 0, DECODE, (0, 1)), [Expert(0, 1)], 0)
    with pytest.raises(ValueError, match="miss=defer: does not work with a neuron selector"):
        Decisions(LRU(), Memory(2), miss=Defer(1), neurons=0.5).build(GEOMETRY)
