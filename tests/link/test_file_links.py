"""What holds of every link that reads files, whoever does the reading."""

from __future__ import annotations

import os
import random

import pytest
from records import EXPERTS, LAYOUT, A, B, C, D, handles, holds, load, need, opened, pack

from moex.link.aio import AioLink
from moex.link.disk import DiskLink
from moex.store.linux_aio import AsyncReads
from moex.types import Eviction, Expert, Load, Plan

pytestmark = pytest.mark.timeout(60)  # a deadlock is a failure


@pytest.fixture(params=[1, 3, AsyncReads], ids=["thread", "threads", "aio"])
def link_of(request):
    """Makes a link: with so many threads, or with the kernel's reads."""
    how = request.param
    if isinstance(how, int):
        return lambda store, slots: DiskLink(store, slots, how, chunk_bytes=4096)

    def made(store, slots):
        need(how, store)
        return AioLink(store, slots)

    return made


def test_random_plans_leave_every_place_with_what_was_loaded_last(store, slots, link_of):
    link, draw = link_of(store, slots), random.Random(0)
    prefetched: dict[int, Expert] = {}
    for clock in range(800):
        slot, expert = draw.randrange(4), draw.choice(EXPERTS)
        dropped = (Eviction(prefetched.pop(slot), slot),) if slot in prefetched else ()
        speculative = draw.random() < 0.6
        link.submit(Plan(clock, loads=(Load(expert, slot, None, speculative),), dropped=dropped))
        if speculative:
            prefetched[slot] = expert
        else:
            link.wait(slot)
            assert holds(slots.records[slot], expert)
        link.used(slot)
        if prefetched and draw.random() < 0.3:
            slot = draw.choice(list(prefetched))
            link.wait(slot)
            assert holds(slots.records[slot], prefetched.pop(slot))
    link.close()


def test_a_corrupted_record_and_a_short_file_come_out_of_wait(tmp_path, slots, link_of):
    folder = pack(tmp_path / "p")
    data = bytearray((folder / "layer-001.records").read_bytes())
    data[2 * LAYOUT.bytes] ^= 128
    (folder / "layer-001.records").write_bytes(data)
    before = handles()
    store = opened(folder)
    os.truncate(folder / "layer-002.records", LAYOUT.bytes)
    link = link_of(store, slots)
    link.submit(load(A, B))
    link.submit(load(C, speculative=True, first=2))
    link.wait(0)
    with pytest.raises(RuntimeError, match=r"expert 2 of layer 1 .* checksum"):
        link.wait(1)
    with pytest.raises(RuntimeError, match=r"expert 3 of layer 2 .* too short"):
        link.wait(2)
    link.submit(load(D, first=2))
    link.wait(2)
    assert holds(slots.records[2], D)
    link.close()
    store.close()
    assert handles() == before
