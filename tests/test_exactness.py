"""With nothing lossy, logits equal stock transformers' grouped_mm bit for bit (CPU, float32)."""

from __future__ import annotations

import itertools

import pytest
import torch
from small_models import ARCHITECTURES
from transformers import AutoModelForCausalLM

from moex.cache.belady import Belady
from moex.cache.fifo import FIFO
from moex.cache.lfu import LFU
from moex.cache.lru import LRU
from moex.cache.random import Random
from moex.hardware.profile import HardwareProfile
from moex.prefetch.gate import Gate
from moex.prefetch.none import NoPrefetch
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.store.disk import DiskStore

POLICIES = [LRU(), LFU(decay=0.9), FIFO(), Random(), Belady(), Belady(bypass=True)]
PREFETCHERS = [NoPrefetch(), Gate(), Gate(depth=3, width=3)]
SLOW_LINK = HardwareProfile("slow", link_bytes_per_s=3e8, link_latency_s=2e-5, chunk_bytes=8192)


@torch.inference_mode()
def run(model, seed: int) -> list[torch.Tensor]:
    """Logits of a prompt pass of two texts, six decoding passes, and a second text alone."""
    draw = torch.Generator().manual_seed(seed)
    out = model(torch.randint(2, 128, (2, 11), generator=draw), use_cache=True)
    logits = [out.logits]
    for _ in range(6):
        token = torch.randint(2, 128, (2, 1), generator=draw)
        out = model(token, past_key_values=out.past_key_values, use_cache=True)
        logits.append(out.logits)
    out = model(torch.randint(2, 128, (1, 3), generator=draw), use_cache=True)
    token = torch.randint(2, 128, (1, 1), generator=draw)
    logits += [out.logits, model(token, past_key_values=out.past_key_values).logits]
    return logits


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request, checkpoints):
    """Loaded parts, stock logits, and the recorded future of the run."""
    folder = checkpoints[request.param]
    stock = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, experts_implementation="grouped_mm"
    ).eval()
    expected = run(stock, seed=3)
    loaded = load_model(str(folder))
    recording = offload(loaded, Setup(LRU()))
    with recording as model:
        run(model, seed=3)
    return loaded, expected, recording.recorder.trace({}).future()


@pytest.mark.parametrize("pool", ["layer", "global"])
def test_logits_are_bit_equal_for_every_policy_prefetcher_and_slot_count(case, pool):
    loaded, expected, future = case
    geometry = loaded.geometry
    slot_counts = (0, 1, geometry.top_k, geometry.top_k + 1, geometry.experts)
    for policy, prefetcher, slots in itertools.product(POLICIES, PREFETCHERS, slot_counts):
        memory = Memory(slots, pool=pool)
        offloaded = offload(loaded, Setup(policy, memory, prefetcher), future=future)
        with offloaded as model:
            logits = run(model, seed=3)
        for mine, stock in zip(logits, expected, strict=True):
            assert torch.equal(mine, stock), (policy, prefetcher, slots)


def test_logits_are_bit_equal_behind_an_emulated_link(case):
    loaded, expected, _ = case
    for prefetcher in PREFETCHERS:
        offloaded = offload(
            loaded, Setup(LRU(), Memory(loaded.geometry.top_k), prefetcher, SLOW_LINK)
        )
        with offloaded as model:
            logits = run(model, seed=3)
        offloaded.close()
        assert all(map(torch.equal, logits, expected))


def test_logits_are_bit_equal_with_other_slots_in_every_layer(case):
    loaded, expected, future = case
    counts = [
        (5 * layer) % (loaded.geometry.experts + 1) for layer in range(loaded.geometry.layers)
    ]
    for policy in (LRU(), Belady(bypass=True)):
        with offload(loaded, Setup(policy, Memory(counts), Gate()), future=future) as model:
            assert all(map(torch.equal, run(model, seed=3), expected)), policy


@pytest.mark.parametrize("direct", [True, False])
def test_logits_are_bit_equal_from_disk(case, direct):
    ram, expected, _ = case
    loaded = load_model(str(ram.folder), store="disk")
    if not direct:
        loaded.store.close()
        loaded.store = DiskStore(loaded.store.folder, loaded.layout, loaded.geometry, direct=False)
    small_chunks = HardwareProfile(chunk_bytes=8192)
    ways = (1, small_chunks), (2, small_chunks), (1, None)  # the last: by the kernel, if it can
    for prefetcher, (threads, chunks) in itertools.product(PREFETCHERS, ways):
        memory = Memory(loaded.geometry.top_k, reader_threads=threads)
        with offload(loaded, Setup(LRU(), memory, prefetcher, chunks)) as model:
            logits = run(model, seed=3)
        assert all(map(torch.equal, logits, expected)), (prefetcher, threads)
    with offload(loaded, Setup(LRU(), Memory(loaded.geometry.top_k), Gate(), SLOW_LINK)) as model:
        assert all(map(torch.equal, run(model, seed=3), expected))
    loaded.store.close()


def test_generate_gives_the_same_tokens(mixtral):
    stock = AutoModelForCausalLM.from_pretrained(mixtral, dtype=torch.float32)
    prompt = torch.arange(2, 12)[None]
    expected = stock.generate(prompt, max_new_tokens=12, do_sample=False)
    with offload(load_model(str(mixtral)), Setup(LRU(), Memory(3), Gate())) as model:
        assert torch.equal(model.generate(prompt, max_new_tokens=12, do_sample=False), expected)


def test_leaving_the_context_restores_the_model_also_after_an_exception(mixtral):
    loaded = load_model(str(mixtral))
    before = loaded.model.config._experts_implementation

    def fail():
        with offload(loaded, Setup(LRU())) as model:
            assert model.config._experts_implementation == "moex"
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()
    assert loaded.model.config._experts_implementation == before
    assert not any("moex" in vars(layer.experts) for layer in loaded.layers)
    assert not loaded.model._forward_pre_hooks
