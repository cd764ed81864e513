"""Routing policies in a live model: neutral values change no bit, and replays choose alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from live_runs import LINK, both, live, padded
from test_exactness import run
from transformers import AutoModelForCausalLM

from moex.cache.lru import LRU
from moex.decisions import governor
from moex.prefetch.gate import Gate
from moex.routing.buddy import Buddy
from moex.routing.cache_prior import CachePrior
from moex.routing.cumulative import Cumulative
from moex.routing.fewer import Fewer
from moex.routing.fixed_k import FixedK
from moex.routing.mass import Mass
from moex.routing.max_rank import MaxRank
from moex.routing.random_swap import RandomSwap
from moex.routing.sensitivity import Sensitivity
from moex.routing.substitute import Substitute
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.runner.router_logits import Rule
from moex.runs.measured import measured
from moex.sim.replay import replay
from moex.trace.format import read_trace, write_trace

STRONG = [
    CachePrior(0.5),
    CachePrior(0.5, background=False),
    MaxRank(9),
    Cumulative(0.8),
    Substitute(0.9),
    RandomSwap(0.3),
    Fewer(0.9),
    Mass(0.5),
    FixedK(1),
    FixedK([1, 2, 4, 3]),
    Sensitivity(0.3),
]
NEUTRAL = [
    CachePrior(0.0),
    MaxRank(1),
    Cumulative(0.0),
    Substitute(0.0),
    RandomSwap(0.0),
    Fewer(0.0),
    Mass(0.0),
    FixedK(4),
    Sensitivity(0.0),
]


@pytest.fixture(scope="module", params=["mixtral", "olmoe", "qwen3_moe"])
def loaded(request, checkpoints):
    return load_model(str(checkpoints[request.param]))


@pytest.mark.parametrize("routing", STRONG, ids=repr)
@pytest.mark.parametrize("prefetcher", [None, Gate()], ids=repr)
def test_a_replay_chooses_and_plans_as_the_run_did(loaded, tmp_path, routing, prefetcher):
    memory = Memory(loaded.geometry.top_k + 1, staging=3 * loaded.geometry.top_k)
    setup = Setup(LRU(), memory, prefetcher, LINK, 5, routing=routing)
    _, plans, offloaded = live(loaded, setup)
    path = write_trace(offloaded.recorder.trace({}), tmp_path / "trace.parquet")
    trace, replayed = read_trace(path), []
    decisions = setup.decisions("ram")
    report = replay(decisions, trace, LINK, on_plan=replayed.append)
    assert replayed == plans
    assert not report.off_policy
    assert report.lossy == ["routing"]
    rates = offloaded.journal.swaps.rates
    assert {name: getattr(report, name) for name in rates} == rates
    assert sum(rates.values()) > 0.02
    row = type(report)()
    row.fill(*measured(offloaded.layer_stats, None))
    assert (row.requests, row.demand_misses) == (report.requests, report.demand_misses)
    assert any(rows.padding.any() for rows in trace.router)
    assert replay(replace(decisions, routing=None), trace, LINK).off_policy
    if routing.residency_dependent:
        other = replace(decisions, memory=Memory(loaded.geometry.experts))
        assert replay(other, trace, LINK).off_policy, "other residents, other choices"


@pytest.mark.parametrize("routing", NEUTRAL, ids=repr)
def test_a_neutral_value_changes_neither_logits_nor_plans(loaded, routing):
    memory = Memory(loaded.geometry.top_k + 1)
    expected, plans, _ = live(loaded, Setup(LRU(), memory, Gate()))
    logits, ours, offloaded = live(loaded, Setup(LRU(), memory, Gate(), routing=routing))
    assert all(map(torch.equal, logits, expected))
    assert ours == plans
    assert offloaded.journal.swaps.rates == {"swap_rate": 0.0, "drop_rate": 0.0}


def test_padding_neither_moves_state_nor_counts(loaded):
    _, _, offloaded = live(loaded, Setup(LRU(), routing=CachePrior(0.0)), padded)
    geometry = loaded.geometry
    assert offloaded.journal.swaps.positions == geometry.layers * geometry.top_k * 8 * 3
    first = offloaded.recorder.trace({}).router[0]
    assert first.padding.tolist() == [True] * 4 + [False] * 5 + [True] + [False] * 17


def test_weights_are_gathered_from_the_original_scores(loaded):
    _, _, offloaded = live(loaded, Setup(LRU(), routing=RandomSwap(0.5, keep=0)))
    source = offloaded.rerouting.logits
    normalized = loaded.geometry.experts == 8 or "Qwen3" in type(loaded.model).__name__
    assert source.rule == Rule("softmax", "", normalized, 1.0)
    rows = next(
        rows for rows in offloaded.recorder.trace({}).router if (rows.final != rows.index).any()
    )
    logits, index, own, final = map(
        torch.from_numpy, (rows.logits, rows.index, rows.weights, rows.final)
    )
    found = source.weights(logits, index, own, final)
    shares = logits.softmax(-1).gather(1, final)
    shares = shares / shares.sum(1, keepdim=True) if normalized else shares
    assert torch.allclose(found, shares, atol=1e-6)
    assert torch.equal(source.weights(logits, index, own, index), own)


def test_fewer_experts_equal_a_model_whose_routers_choose_fewer(loaded):
    k = loaded.geometry.top_k
    logits, _, offloaded = live(loaded, Setup(LRU(), Memory(k), routing=FixedK(k - 1)), run)
    stock = AutoModelForCausalLM.from_pretrained(
        loaded.folder, dtype=torch.float32, num_experts_per_tok=k - 1
    )
    expected = run(stock.eval(), seed=3)
    assert all(torch.allclose(*pair, atol=1e-5) for pair in zip(logits, expected, strict=True))
    assert offloaded.journal.swaps.rates == {"swap_rate": 0.0, "drop_rate": 1 / k}


def test_buddies_are_found_in_the_trace_of_an_earlier_run(loaded, tmp_path):
    _, _, before = live(loaded, Setup(LRU()), lambda model, _: [run(model, n) for n in range(9)])
    path = str(write_trace(before.recorder.trace({}), tmp_path / "before.parquet"))
    routing = Buddy(path, alpha=1.0, tau=0.0)
    setup = Setup(LRU(), Memory(loaded.geometry.top_k + 1), routing=routing)
    _, plans, offloaded = live(loaded, setup)
    replayed: list = []
    replay(setup.decisions("ram"), offloaded.recorder.trace({}), on_plan=replayed.append)
    assert replayed == plans
    assert offloaded.journal.swaps.swapped > 0
    expected, _, _ = live(loaded, replace(setup, routing=None))
    logits, _, _ = live(loaded, replace(setup, routing=replace(routing, alpha=0.0)))
    assert all(map(torch.equal, logits, expected))


def test_an_interrupted_run_forgets_routing_state_in_its_replay_too(checkpoints):
    loaded, left = load_model(str(checkpoints["mixtral"])), [60]

    def on_plan(plan):
        left[0] -= 1
        if not left[0]:
            raise RuntimeError("interrupted")

    setup = Setup(LRU(), Memory(3), routing=CachePrior(0.5, decay=0.5))
    offloaded = offload(loaded, setup, on_plan=on_plan)
    with offloaded as model:
        with pytest.raises(RuntimeError, match="interrupted"):
            both(model, 1)
        both(model, 2)
    offloaded.finish()
    trace = offloaded.recorder.trace({})
    assert trace.resets
    report = replay(setup.decisions("ram"), trace)
    assert not report.off_policy
    assert report.swap_rate == offloaded.journal.swaps.rates["swap_rate"]


def test_the_governor_pauses_alike_beside_background_loads(loaded, monkeypatch):
    for name, value in {"WINDOW": 6, "PROBE": 2, "FIRST": 2, "LONGEST": 8}.items():
        monkeypatch.setattr(governor, name, value)
    memory = Memory(loaded.geometry.top_k + 1, staging=3 * loaded.geometry.top_k)
    routing = CachePrior(0.5)
    setup = Setup(LRU(), memory, Gate(), LINK, governor=True, routing=routing)
    monkeypatch.setattr("moex.decisions.decisions.least_precision", lambda *_: 0.9)
    _, plans, offloaded = live(loaded, setup)
    replayed: list = []
    trace = offloaded.recorder.trace({})
    report = replay(setup.decisions("ram"), trace, LINK, on_plan=replayed.append)
    assert replayed == plans
    assert 0 < report.prefetch_paused < 1


def test_displaced_experts_are_loaded_in_the_background(loaded):
    k = loaded.geometry.top_k
    memory = Memory(k + 1, staging=4 * k)
    for background in (True, False):
        routing = CachePrior(0.5, background=background)
        _, plans, offloaded = live(loaded, Setup(LRU(), memory, routing=routing))
        counts = offloaded.cache_stats.phases["decode"]
        issued = [load for plan in plans for load in plan.loads if load.speculative]
        assert counts.background_loads == len(issued)
        assert bool(issued) is background
        assert not any(plan.prefetched or plan.dropped for plan in plans)
        later = {hit for plan in plans for hit in plan.hits if plan.clock > plans[0].clock}
        assert not background or later & {load.expert for load in issued}, "they stay"
