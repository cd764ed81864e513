"""A live run and a replay of its own trace take the same decisions, plan for plan."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_exactness import PREFETCHERS, run

from moex.cache.core import ExpertCache
from moex.cache.fifo import FIFO
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.cache.random import Random
from moex.decisions import governor
from moex.hardware.profile import HardwareProfile
from moex.prefetch.eam import EAM
from moex.prefetch.expert_map import ExpertMap
from moex.prefetch.gate import Gate
from moex.prefetch.markov import Markov
from moex.prefetch.previous import Previous
from moex.prefetch.random import Random as RandomExperts
from moex.prefetch.recorded import Recorded
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.runs.measured import measured
from moex.sim.replay import replay
from moex.sim.simulator import simulate
from moex.trace.format import read_trace, write_trace
from moex.types import DECODE

CAUSAL = [LRU(), LFU(), LFU(decay=0.9, perfect=False), FIFO(), Random()]
LINK = HardwareProfile("link", link_bytes_per_s=5e8, link_latency_s=1e-5, chunk_bytes=8192)
LOGICAL = (
    "requests",
    "resident_hits",
    "demand_misses",
    "prefetch_issued",
    "prefetch_used",
    "prefetch_wasted",
    "bytes_demand",
    "bytes_prefetch",
    "bytes_wasted",
    "prefill_requests",
    "prefill_resident_hits",
    "prefill_demand_misses",
    "partial_hits",
    "bytes_selected",
    "row_hit_rate",
    "prefetch_paused",
)
GUESSES = [Gate(depth=2), Previous(), Markov(), RandomExperts(), ExpertMap(depth=2), EAM()]


@pytest.fixture(scope="module")
def loaded(checkpoints):
    return load_model(str(checkpoints["olmoe"]))


@pytest.mark.parametrize("policy", CAUSAL, ids=repr)
@pytest.mark.parametrize("prefetcher", PREFETCHERS, ids=repr)
@pytest.mark.parametrize(("pool", "hardware"), [("layer", None), ("global", LINK)])
def test_plans_are_identical(loaded, tmp_path, policy, prefetcher, pool, hardware):
    live = []
    memory = Memory(6, pool=pool)
    offloaded = offload(loaded, Setup(policy, memory, prefetcher, hardware, 5), on_plan=live.append)
    with offloaded as model:
        run(model, seed=11)
    offloaded.finish()
    offloaded.close()
    path = write_trace(offloaded.recorder.trace({}), tmp_path / "trace.parquet")
    replayed = []
    cache = ExpertCache(policy, loaded.geometry, 6, pool, seed=5)
    report = simulate(read_trace(path), cache, prefetcher, hardware, on_plan=replayed.append)
    assert replayed == live
    row = type(report)()
    row.fill(*measured(offloaded.layer_stats, None))
    assert {n: getattr(row, n) for n in LOGICAL} == {n: getattr(report, n) for n in LOGICAL}


@pytest.mark.parametrize("slots", [0, 1, [0, 3, 1, 8]], ids=str)
@pytest.mark.parametrize("policy", [LRU(), LFU(), Random()], ids=repr)
def test_plans_are_identical_below_top_k_and_by_layer(loaded, policy, slots):
    geometry, live, replayed = loaded.geometry, [], []
    slots = (slots * geometry.layers)[: geometry.layers] if isinstance(slots, list) else slots
    offloaded = offload(loaded, Setup(policy, Memory(slots), Gate(), seed=5), on_plan=live.append)
    with offloaded as model:
        run(model, seed=11)
    offloaded.finish()
    cache = ExpertCache(policy, geometry, slots, seed=5)
    simulate(offloaded.recorder.trace({}), cache, Gate(), on_plan=replayed.append)
    assert replayed == live
    layers = {load.expert.layer for plan in live for load in plan.loads}
    assert layers == {*range(geometry.layers)}


def test_emptying_the_cache_between_prompts_is_replayed_too(loaded):
    live = []
    offloaded = offload(loaded, Setup(LRU(), Memory(5), Gate()), on_plan=live.append)
    with offloaded as model:
        for seed in (1, 2):
            offloaded.empty()
            # One text a pass, so that a pass at position 0 is the start of a sequence.
            import torch

            with torch.inference_mode():
                draw = torch.Generator().manual_seed(seed)
                out = model(torch.randint(2, 128, (1, 5), generator=draw), use_cache=True)
                model(out.logits[:, -1:].argmax(-1), past_key_values=out.past_key_values)
    offloaded.finish()
    replayed = []
    cache = ExpertCache(LRU(), loaded.geometry, 5)
    simulate(offloaded.recorder.trace({}), cache, Gate(), cold=True, on_plan=replayed.append)
    assert replayed == live


def test_decoding_books_add_up(loaded):
    offloaded = offload(loaded, Setup(LRU(), Memory(5), Gate(depth=2), LINK))
    with offloaded as model:
        run(model, seed=4)
    offloaded.finish()
    offloaded.close()
    counts = offloaded.cache_stats.phases[DECODE]
    assert counts.requests == counts.resident_hits + counts.prefetched_hits + counts.demand_misses
    total = [offloaded.cache_stats.phases[phase] for phase in ("prefill", "decode")]
    issued = sum(c.prefetch_issued for c in total)
    assert issued == sum(c.prefetched_hits + c.prefetch_wasted for c in total)


@pytest.fixture
def hasty(monkeypatch):
    """A governor that pauses within the few visits of a test."""
    for name, value in {"WINDOW": 6, "PROBE": 2, "FIRST": 2, "LONGEST": 8}.items():
        monkeypatch.setattr(governor, name, value)
    monkeypatch.setattr(governor, "LEAST", 0.9)


@pytest.mark.parametrize("prefetcher", GUESSES, ids=repr)
@pytest.mark.parametrize("pool", ["layer", "global"])
@pytest.mark.parametrize(("store", "hardware"), [("disk", None), ("ram", LINK), ("ram", None)])
def test_a_replay_pauses_prefetching_as_the_run_did(
    checkpoints, hasty, prefetcher, pool, store, hardware
):
    parts, live, replayed = load_model(str(checkpoints["olmoe"]), store=store), [], []
    setup = Setup(LRU(), Memory(5, pool=pool), prefetcher, hardware, 5, governor=True)
    offloaded = offload(parts, setup, on_plan=live.append)
    with offloaded as model:
        for seed in (1, 2):
            run(model, seed)
    offloaded.finish()
    trace = offloaded.recorder.trace({})
    parts.store.close()
    settings = setup.decisions(store, trace.provenance["overlaps"])
    report = replay(settings, trace, hardware, on_plan=replayed.append)
    assert replayed == live
    row = type(report)()
    row.fill(*measured(offloaded.layer_stats, None))
    assert {n: getattr(row, n) for n in LOGICAL} == {n: getattr(report, n) for n in LOGICAL}
    copied = (store, hardware) == ("ram", None)
    assert row.prefetch_paused == 1 if copied else 0 < row.prefetch_paused < 1
    assert any(load.speculative for plan in live for load in plan.loads) != copied
    repeated = []
    replay(replace(settings, prefetcher=Recorded()), trace, hardware, on_plan=repeated.append)
    assert [plan for plan in repeated if plan.loads] == [plan for plan in live if plan.loads]


def test_an_interrupted_run_is_paused_in_its_replay_as_it_was(checkpoints, hasty):
    parts, left = load_model(str(checkpoints["olmoe"]), store="disk"), [150]

    def on_plan(plan):
        left[0] -= 1
        if not left[0]:
            raise RuntimeError("interrupted")

    def several(model):
        for seed in range(2, 9):
            run(model, seed)

    setup = Setup(LRU(), Memory(5), RandomExperts(), governor=True)
    offloaded = offload(parts, setup, on_plan=on_plan)
    with offloaded as model:
        run(model, seed=1)
        with pytest.raises(RuntimeError, match="interrupted"):
            several(model)
        run(model, seed=9)
    offloaded.finish()
    trace = offloaded.recorder.trace({})
    parts.store.close()
    assert trace.resets
    report = replay(setup.decisions("disk"), trace)
    row = type(report)()
    row.fill(*measured(offloaded.layer_stats, None))
    assert {n: getattr(row, n) for n in LOGICAL} == {n: getattr(report, n) for n in LOGICAL}
    assert 0 < row.prefetch_paused < 1


def test_a_link_that_hides_nothing_is_said_once_to_prefetch_nothing(checkpoints, capsys):
    parts = load_model(str(checkpoints["olmoe"]), store="ram")
    for word, prefetcher, lines in ((True, Gate(), 1), (False, Gate(), 0), (True, None, 0)):
        offload(parts, Setup(LRU(), Memory(5), prefetcher, governor=word)).close()
        assert capsys.readouterr().err.count("link=copy: copies in the computing thread") == lines
