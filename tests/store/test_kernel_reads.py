"""Reads by the kernel, without a link around them."""

from __future__ import annotations

import errno
import os
from types import SimpleNamespace

import pytest
import torch
from records import EXPERTS, LAYOUT, A, B, holds, need, opened, pack

from moex.store import polled
from moex.store.kernel import KernelReads, Request
from moex.store.polled import PolledReads, fastest_reads, interrupted_core
from moex.store.slots import paged

pytestmark = pytest.mark.timeout(60)  # a deadlock is a failure


@pytest.fixture
def store(tmp_path):
    store = opened(pack(tmp_path / "p"))
    yield store
    store.close()


def test_requests_into_memory_of_ours(store):
    need(KernelReads, store)
    memory = paged(3 * 4096).fill_(7)
    reads = KernelReads(2, memory)
    file, offset = store.where(B)
    assert reads.begin([Request(5, file, memory.data_ptr() + 4096, 4096, offset)]) == 1
    assert reads.ended(wait=True) == [(5, 4096)]
    assert not reads.any_ended()
    assert reads.ended(wait=False) == []
    expected = torch.empty(LAYOUT.bytes, dtype=torch.uint8)
    store.read(B, expected)
    assert torch.equal(memory[4096:8192], expected[:4096])
    assert (memory[:4096] == 7).all()
    assert (memory[8192:] == 7).all()
    with pytest.raises(OSError, match="io_submit"):
        reads.begin([Request(5, 1 << 20, memory.data_ptr(), 4096, 0)])
    reads.close()
    reads.close()


def test_a_polled_queue_goes_round_and_round(store):
    need(PolledReads, store)
    memory = paged(4 * LAYOUT.bytes)
    reads = PolledReads(3, memory)
    for turn in range(50):
        chosen = EXPERTS[turn % 9 : turn % 9 + 3]
        requests = [
            Request(n, *store.where(e)[:1], memory.data_ptr() + n * LAYOUT.bytes, LAYOUT.bytes, at)
            for n, e in enumerate(chosen)
            for at in store.where(e)[1:]
        ]
        assert reads.begin(requests) == 3
        found = []
        while len(found) < 3:
            found += reads.ended(wait=True)
        assert sorted(found) == [(n, LAYOUT.bytes) for n in range(3)]
        for number, expert in enumerate(chosen):
            assert holds(memory[number * LAYOUT.bytes :][: LAYOUT.bytes], expert)
    assert reads.begin([Request(7, 1 << 20, memory.data_ptr(), 4096, 0)]) == 1
    assert reads.ended(wait=True) == [(7, -errno.EBADF)]
    reads.close()
    reads.close()


def test_the_kernels_thread_is_asked_where_a_core_is_left(store, monkeypatch):
    need(PolledReads, store)
    file, _ = store.where(A)
    cores = os.sched_getaffinity(0)
    assert interrupted_core(file) in {None, *cores}
    for threads, io in ((len(cores), "aio"), (len(cores) - 1, "uring")):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        reads = fastest_reads(2, paged(4096), file)
        assert reads.io == io
        reads.close()


def test_who_makes_a_polled_queue_leaves_its_core_to_the_kernel_until_it_is_closed(store):
    need(PolledReads, store)
    cores = os.sched_getaffinity(0)
    core = max(cores)
    reads = PolledReads(2, paged(4096), core)
    assert os.sched_getaffinity(0) == (cores - {core} or cores)
    reads.close()
    assert os.sched_getaffinity(0) == cores


def test_only_a_thread_that_is_awake_and_takes_nothing_is_starved(store, monkeypatch):
    need(PolledReads, store)
    monkeypatch.setattr(polled, "LOOK_S", 0)
    reads = PolledReads(2, paged(4096))

    def interrupted(_):
        raise InterruptedError

    ring = SimpleNamespace(taken=0, begun=1, ended=2, seen=3, words=[0, 1, 0, 0], wait=interrupted)
    mine, reads._ring = reads._ring, ring
    for awake in (False, True):
        reads._awake = awake
        for _ in range(polled.STARVED):
            assert not reads.starved
            assert reads.ended(wait=True) == []
        assert reads.starved == awake
    ring.words[0] = 1  # it takes them again
    reads.ended(wait=True)
    assert not reads.starved
    reads._ring = mine
    reads.close()
