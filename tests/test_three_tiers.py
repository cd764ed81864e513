"""Disk, host memory, device: live runs are exact, and decide as a replay of their traces does."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from test_exactness import SLOW_LINK, run
from transformers import AutoModelForCausalLM

from moex.bench.prompts import Prompts
from moex.bench.rounds import run_offloaded
from moex.bench.setup import describe, prepare
from moex.cache.belady import Belady
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.cache.variants.tiers import load_future
from moex.link.host_tier import HostTierStore
from moex.prefetch.gate import Gate
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.sim.bottleneck import analyze_live
from moex.sim.replay import replay
from moex.types import Load, Plan, Source

POLICIES = {"lru": LRU(), "lfu": LFU(), "belady": Belady()}
PAIRS = list(product(POLICIES, POLICIES))
LINK = replace(SLOW_LINK, disk_bytes_per_s=2e8, disk_latency_s=1e-4)


@pytest.fixture(scope="module")
def case(checkpoints):
    """A model whose experts are in files, stock logits, and the recorded trace of the run."""
    folder = checkpoints["olmoe"]
    stock = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, experts_implementation="grouped_mm"
    ).eval()
    expected = run(stock, seed=3)
    loaded = load_model(str(folder), store="disk")
    with (recording := offload(loaded, Setup(LRU()))) as model:
        run(model, seed=3)
    yield loaded, expected, recording.recorder.trace({})
    loaded.store.close()


def by_layer(geometry):
    return [(3 * layer) % (geometry.experts + 1) for layer in range(geometry.layers)]


@pytest.mark.parametrize("tiers", ["inclusive", "exclusive"])
@pytest.mark.parametrize(("device", "host"), PAIRS, ids=map("-".join, PAIRS))
def test_plans_are_identical_and_logits_bit_equal(case, device, host, tiers):
    loaded, expected, recording = case
    geometry = loaded.geometry
    size = geometry.expert_bytes * (geometry.layers * geometry.experts * 3 // 4)
    ways = [(0, Gate(), None), (by_layer(geometry), None, None), (3, Gate(), LINK)]
    for slots, prefetcher, hardware in ways:
        memory = Memory(slots, host=size, host_policy=host, tiers=tiers)
        setup = Setup(POLICIES[device], memory, prefetcher, hardware)
        future, plans, live, replayed = recording.future(), [], [], []
        if host == "belady":
            plain = replace(setup, memory=replace(memory, host=None))
            with offload(loaded, plain, future, on_plan=plans.append) as model:
                run(model, seed=3)
        offloaded = offload(loaded, setup, future, on_plan=live.append, loads=load_future(plans))
        with offloaded as model:
            logits = run(model, seed=3)
        assert all(map(torch.equal, logits, expected)), slots
        offloaded.finish()
        trace = offloaded.recorder.trace({})
        replay(setup.decisions("disk"), trace, hardware, on_plan=replayed.append)
        assert replayed == live
        counts = offloaded.cache_stats.phases["decode"]
        assert min(counts.host_hits, counts.host_loads) > 0


@pytest.mark.parametrize("link", ["copy", "disk"])
@pytest.mark.parametrize("tiers", ["inclusive", "exclusive"])
def test_a_host_hit_is_not_read_from_the_disk(case, link, tiers):
    loaded, expected, _ = case
    geometry = loaded.geometry
    every = geometry.layers * geometry.experts + 2 * geometry.top_k
    memory = Memory(2, host=geometry.expert_bytes * every, tiers=tiers, link=link)
    with (offloaded := offload(loaded, Setup(LRU(), memory))) as model:
        logits = run(model, seed=3)
        stats = [counts for counts in offloaded.cache_stats.phases.values()]
        read = offloaded.tier.bytes_read // loaded.layout.bytes
        copied = offloaded.tier.bytes_copied // loaded.layout.bytes
    assert all(map(torch.equal, logits, expected))
    assert read == sum(each.host_loads for each in stats)
    through = copied - sum(each.host_hits for each in stats)
    assert through == (read if tiers == "inclusive" else 0)


def test_what_was_never_filled_is_read_from_the_disk(case):
    loaded, _, _ = case
    size = loaded.layout.bytes
    tier = HostTierStore(loaded.store, 2)
    slots = loaded.layout.slots(1, 1, "cpu")
    (expert, other), out = [(0, 1), (1, 2)], torch.empty(size, dtype=torch.uint8)
    from moex.types import Expert

    expert, other = Expert(*expert), Expert(*other)
    loads = (Load(expert, 0),)
    # The first load was dropped before it began; the second takes it for a hit, and fills.
    tier.take(Plan(0, loads=loads, sources=(Source(False, 1),)), slots)
    tier.take(Plan(1, loads=loads, sources=(Source(True, 1),)), slots)
    expected = torch.empty(size, dtype=torch.uint8)
    loaded.store.read(expert, expected)
    tier.read(expert, out)
    assert torch.equal(out, expected)
    assert tier.bytes_read == size
    tier.read(expert, out)
    assert tier.bytes_read == size
    # Its slot is given to another expert while a load of it still waits.
    tier.take(Plan(2, loads=(Load(other, 0),), sources=(Source(False, 1),)), slots)
    tier.read(other, out)
    tier.read(expert, out)
    assert torch.equal(out, expected)
    tier.close()


def test_all_experts_in_memory_need_no_host_tier(checkpoints):
    loaded = load_model(str(checkpoints["olmoe"]))
    with pytest.raises(ValueError, match=r"memory.store=ram holds all .* memory.store=disk"):
        offload(loaded, Setup(LRU(), Memory(2, host="10MB")))


@pytest.mark.parametrize("hardware", [None, LINK])
def test_the_bottleneck_line_knows_both_tiers(case, hardware):
    loaded, _, _ = case
    memory = Memory(1, host=loaded.geometry.expert_bytes * 24, tiers="exclusive")
    setup = Setup(LRU(), memory, hardware=hardware)
    workload = Prompts(name="words", new_tokens=4, warmup=0, repeats=1)
    result = run_offloaded(loaded, [torch.arange(2, 9)[None]], workload, setup)
    report = result.report
    assert report.disk_bytes_per_s > 0
    line = str(analyze_live(result.round.trace, setup.decisions("disk"), hardware, report))
    for unit in ("2x disk bandwidth", "2x host memory", "2x link bandwidth", "tokens/s"):
        assert unit in line


@pytest.mark.parametrize("cold", [False, True])
def test_belady_in_the_host_tier_is_recorded_first(case, cold):
    loaded, _, _ = case
    size = loaded.geometry.expert_bytes * 12
    memory = Memory(2, host=size, host_policy="belady")
    batches = [torch.arange(2, 9)[None], torch.arange(20, 26)[None]]
    workload = Prompts(name="words", new_tokens=4, cold=cold, warmup=0)
    setup, live = Setup(LRU(), memory, Gate()), []
    offloaded = prepare(loaded, batches, workload, setup)
    offloaded.on_plan = live.append
    from moex.bench.workload import generate

    with offloaded as model:
        before = offloaded.empty if cold else None
        generate(model, batches, 4, offloaded.meter, before)
        offloaded.finish()
    replayed = []
    given = setup.decisions("disk"), offloaded.recorder.trace({}), None, cold
    replay(*given, on_plan=replayed.append)
    assert replayed == live
    report = describe(offloaded, loaded, setup)
    assert (report.host_policy, report.host_bytes) == ("Belady", size)
