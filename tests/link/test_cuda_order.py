"""The CUDA link in every order that streams and events allow, played without a GPU."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
import torch
from records import EXPERTS, GEOMETRY, LAYOUT, holds, tensors
from streams import Cuda

from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.link import cuda, pinned
from moex.store.ram import RamStore
from moex.store.slots import Slots
from moex.types import Access, Expert, Load, Plan, Prediction


@pytest.fixture(scope="module")
def store():
    made = RamStore(LAYOUT, GEOMETRY)
    for expert in EXPERTS:
        made.put(expert, tensors(expert))
    return made


@pytest.fixture
def device(request, monkeypatch):
    with Cuda(getattr(request, "param", 0)).in_place(monkeypatch, cuda) as played:
        yield played
        for unlock in list(pinned._locked.values()):
            unlock()


def launch(device, link, expert, slot, seen):
    """A kernel that reads a place some time after it was launched."""
    record = link.slots.records[slot]
    device.world.current.give(lambda: seen.append((expert, holds(record, expert))))
    link.used(slot)


def visit(device, link, residency, clock, experts, prefetches, seen):
    """What the runner does in one visit: its plans' loads, prefetches and kernels."""
    layer = clock % 3
    for plan in residency.request(Access(clock, clock // 3, layer, "decode", experts)):
        link.submit(plan)
        if plan.last:
            link.submit(residency.prefetch(prefetches, clock))
        there = list(zip(plan.hits, plan.slots, strict=True))
        for expert, slot in there + [load[:2] for load in plan.loads]:
            link.wait(slot)
            launch(device, link, expert, slot, seen)


@pytest.mark.parametrize("device", range(60), indirect=True)
def test_every_kernel_reads_what_was_loaded_for_it(device, store):
    draw = random.Random(device.world.draw.random())
    link = cuda.CudaLink(store, Slots(LAYOUT, 3 * 2 + 4), chunk_bytes=1024)
    residency, seen = ExpertCache(LRU(), GEOMETRY, 2, staging=4), []
    for clock in range(60):
        chosen = tuple(draw.sample(range(4), 2))
        ahead = [Expert((clock + far) % 3, draw.randrange(4)) for far in (1, 1, 2)]
        visit(device, link, residency, clock, chosen, [Prediction(e, 1.0) for e in ahead], seen)
        if draw.random() < 0.2:  # the routing is read back
            device.world.compute.synchronize()
            assert link.stats().stall_s >= 0
    link.submit(residency.finish(60))
    device.world.compute.synchronize()
    assert len(seen) == 120
    assert all(right for _, right in seen)
    link.close()


def test_a_guess_left_over_never_lands_on_what_came_after(device, store):
    """As when a visit was interrupted, and the statistics began anew."""
    link = cuda.CudaLink(store, Slots(LAYOUT, 2), chunk_bytes=1024)
    others = tuple(Load(expert, 1, speculative=True) for expert in EXPERTS[5:9])
    link.submit(Plan(0, loads=(*others, Load(EXPERTS[0], 0, speculative=True))))
    link.submit(Plan(1, loads=(Load(EXPERTS[1], 0),)))
    link.wait(0)
    for _ in range(50):
        link.used(1)  # would send on what is left
        device.world.go_on(5)
    assert holds(link.slots.records[0], EXPERTS[1])
    link.close()


@pytest.mark.parametrize("device", range(8), indirect=True)
def test_seconds_and_bytes_are_those_of_pieces(device, store):
    link = cuda.CudaLink(store, Slots(LAYOUT, 3), chunk_bytes=1024)
    link.log = []
    link.submit(Plan(0, loads=(Load(EXPERTS[0], 0, speculative=True),)))
    link.submit(Plan(1, loads=(Load(EXPERTS[1], 1),)))
    late = [link.wait(slot) for slot in (0, 1)]
    device.world.compute.synchronize()
    stats = link.stats()
    moves = [event for event in link.log if event[0] == "move"]
    assert stats.bytes_moved == 2 * LAYOUT.bytes == sum(move[4] for move in moves)
    assert stats.busy_s == pytest.approx(sum(move[3] - move[2] for move in moves))
    assert all(before[3] <= after[2] for before, after in pairwise(moves))
    assert sorted(event[1] for event in link.log if event[0] == "load") == EXPERTS[:2]
    assert stats.stall_s == pytest.approx(sum(e[3] for e in link.log if e[0] == "stall"))
    assert (stats.stall_s > 0) == any(late)
    link.close()


def test_pages_are_locked_once_and_given_back_with_the_memory(device):
    store = RamStore(LAYOUT, GEOMETRY)
    first, second = (cuda.CudaLink(store, Slots(LAYOUT, 2)) for _ in range(2))
    assert first.pinned
    assert second.pinned
    first.close()
    assert len(device.locked) == GEOMETRY.layers, "the other link copies from there"
    second.close()
    assert second.pinned, "rows are written when a run is over"
    store.close()
    assert not device.locked


def test_all_layers_are_pinned_or_none(device, caplog):
    device.pins, store = 2, RamStore(LAYOUT, GEOMETRY)
    store.put(EXPERTS[3], tensors(EXPERTS[3]))
    link = cuda.CudaLink(store, Slots(LAYOUT, 2))
    assert not link.pinned
    assert not device.locked
    assert "after 2 of 3 layers" in caplog.text
    link.submit(Plan(0, loads=(Load(EXPERTS[3], 1),)))
    link.wait(1)
    device.world.compute.synchronize()
    assert holds(link.slots.records[1], EXPERTS[3])
    link.close()


def test_layers_share_no_page():
    records = RamStore(LAYOUT, GEOMETRY).records
    assert all(record.data_ptr() % 4096 == 0 and record.nbytes % 4096 == 0 for record in records)
    assert all(record.dtype == torch.uint8 for record in records)
