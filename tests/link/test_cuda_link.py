"""The CUDA link: right bytes in every order of events; needs a GPU."""

from __future__ import annotations

from time import perf_counter

import pytest
import torch
from records import EXPERTS, GEOMETRY, LAYOUT, holds, tensors

from moex.cache.lru import LRU
from moex.link.cuda import CudaLink
from moex.prefetch.gate import Gate
from moex.runner.assemble import Memory, Setup, load_model, offload
from moex.runner.meter import begin_peak, peak_device_bytes
from moex.store.ram import RamStore
from moex.store.slots import Slots
from moex.types import Eviction, Load, Plan

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]


@pytest.fixture
def link():
    store = RamStore(LAYOUT, GEOMETRY)
    for expert in EXPERTS:
        store.put(expert, tensors(expert))
    made = CudaLink(store, Slots(LAYOUT, 4, "cuda"), chunk_bytes=1024)
    yield made
    made.close()


def arrived(link, expert, slot):
    link.wait(slot)
    torch.cuda.current_stream().synchronize()
    return holds(link.slots.records[slot].cpu(), expert)


def test_demand_and_guesses_arrive(link):
    assert link.pinned
    link.submit(Plan(0, loads=(Load(EXPERTS[0], 0), Load(EXPERTS[1], 1))))
    link.submit(Plan(0, loads=(Load(EXPERTS[2], 2, speculative=True),)))
    for number in range(3):
        assert arrived(link, EXPERTS[number], number)
    assert not link.wait(0)
    assert link.stats().bytes_moved == 3 * LAYOUT.bytes
    assert link.stats().busy_s > 0


def test_a_dropped_guess_gives_its_place_to_another(link):
    for number in range(50):
        prefetch, real = EXPERTS[number % 12], EXPERTS[(number + 5) % 12]
        link.submit(Plan(number, loads=(Load(prefetch, 3, speculative=True),)))
        link.submit(Plan(number, dropped=(Eviction(prefetch, 3),), loads=(Load(real, 3),)))
        assert arrived(link, real, 3)


def test_a_copy_waits_for_the_kernel_that_reads_its_place(link):
    """The kernel is launched behind a long one; without the fence it would read what comes next."""
    busy = torch.randn(4096, 4096, device="cuda")
    link.submit(Plan(0, loads=(Load(EXPERTS[0], 0),)))
    link.wait(0)
    for _ in range(20):
        busy = busy @ busy * 1e-3
    seen = link.slots.records[0].clone()
    link.used(0)
    link.submit(Plan(1, loads=(Load(EXPERTS[7], 0),)))
    assert arrived(link, EXPERTS[7], 0)
    assert holds(seen.cpu(), EXPERTS[0])


def test_waits_are_timed_by_events(link):
    link.submit(Plan(0, loads=(Load(EXPERTS[0], 0),)))
    late = link.wait(0)
    torch.cuda.synchronize()
    assert (link.stats().stall_s > 0) == late


def test_memory_that_cannot_be_pinned_is_used_as_it_is(monkeypatch, caplog):
    class Refusing:
        def cudaHostRegister(self, *_):
            return 2

    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "cudart", Refusing)
        store = RamStore(LAYOUT, GEOMETRY)
        store.put(EXPERTS[0], tensors(EXPERTS[0]))
        link = CudaLink(store, Slots(LAYOUT, 2, "cuda"))
    assert not link.pinned
    assert "pins no more host memory" in caplog.text
    link.submit(Plan(0, loads=(Load(EXPERTS[0], 0),)))
    assert arrived(link, EXPERTS[0], 0)
    link.close()


def test_an_offloaded_model_gives_the_logits_of_a_resident_one(mixtral):
    loaded = load_model(str(mixtral), device="cuda", store="ram")
    ids = torch.arange(2, 40, device="cuda")[None]
    outs = []
    for slots, prefetch in ((8, None), (2, None), (2, Gate(depth=2)), (3, Gate())):
        with (
            offload(loaded, Setup(LRU(), Memory(slots), prefetch)) as model,
            torch.inference_mode(),
        ):
            out = model(ids, use_cache=True)
            logits = [out.logits]
            for token in range(8):
                step = torch.tensor([[token + 3]], device="cuda")
                out = model(step, past_key_values=out.past_key_values, use_cache=True)
                logits.append(out.logits)
        outs.append(torch.cat(logits, dim=1))
    assert all(torch.equal(outs[0], other) for other in outs[1:])


def test_a_peak_is_that_of_its_own_run():
    large = torch.ones(64 << 20, dtype=torch.uint8, device="cuda")
    begin_peak()
    assert peak_device_bytes() >= large.nbytes
    del large
    begin_peak()
    assert peak_device_bytes() < 64 << 20


def test_the_timeline_of_a_run_has_moves_and_loads(link):
    link.log = []
    began = perf_counter()
    link.submit(Plan(0, loads=(Load(EXPERTS[0], 0), Load(EXPERTS[1], 1, speculative=True))))
    for slot in (0, 1):
        assert arrived(link, EXPERTS[slot], slot)
    link.stats()
    kinds = [event[0] for event in link.log]
    assert kinds.count("load") == 2
    assert sum(event[4] for event in link.log if event[0] == "move") == 2 * LAYOUT.bytes
    moves = [event for event in link.log if event[0] == "move"]
    assert all(began - 1e-3 < move[2] <= move[3] < perf_counter() + 1e-3 for move in moves)
