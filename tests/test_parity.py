"""A live run and a replay of its own trace take the same decisions, plan for plan."""

from __future__ import annotations

import pytest
from test_exactness import PREFETCHERS, run

from moex.cache.core import ExpertCache
from moex.cache.fifo import FIFO
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.cache.random import Random
from moex.hardware.profile import HardwareProfile
from moex.prefetch.gate import Gate
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.runs.measured import measured
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
)


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
