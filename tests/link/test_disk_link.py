"""The disk link reads the right bytes in the right order; stalls and errors come out of wait."""

from __future__ import annotations

import errno
import os
import threading
from time import perf_counter, sleep
from types import SimpleNamespace

import pytest
import torch
from records import EXPERTS, LAYOUT, A, B, C, handles, holds, opened

from moex.cache.memory import Memory
from moex.hardware.profile import HardwareProfile
from moex.link.disk import DiskLink
from moex.link.emulated import EmulatedLink
from moex.types import Eviction, Expert, Load, Plan


class Gate:
    """Lets reads pass one at a time when told to, and notes who was read, in order."""

    def __init__(self, monkeypatch):
        self.begun, self._pass = [], threading.Semaphore(0)
        self._at = {}
        really = os.preadv

        def preadv(file, buffers, offset):
            name = os.readlink(f"/proc/self/fd/{file}")
            layer, record = int(name[-11:-8]), offset // LAYOUT.bytes
            self.begun.append((Expert(layer, record), offset % LAYOUT.bytes // 4096))
            self._pass.acquire()
            return really(file, buffers, offset)

        monkeypatch.setattr(os, "preadv", preadv)

    def open(self, reads: int) -> None:
        self._pass.release(reads)

    def until_begun(self, reads: int) -> None:
        limit = perf_counter() + 10
        while len(self.begun) < reads:
            assert perf_counter() < limit, self.begun
            sleep(0.001)


@pytest.fixture
def gate(store, monkeypatch):
    return Gate(monkeypatch)


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("chunk", [1, 4096, 1 << 22])
def test_loads_hold_their_experts(folder, slots, direct, threads, chunk):
    store = opened(folder, direct=direct)
    link = DiskLink(store, slots, threads, chunk)
    for first in range(0, len(EXPERTS), 4):
        loads = [Load(expert, slot) for slot, expert in enumerate(EXPERTS[first : first + 4])]
        link.submit(Plan(0, loads=tuple(loads)))
        for load in loads:
            link.wait(load.slot)
            assert holds(slots.records[load.slot], load.expert)
    link.close()
    store.close()
    assert link.stats().bytes_moved == len(EXPERTS) * LAYOUT.bytes
    assert link.stats().busy_s > 0


def test_a_wait_returns_how_long_it_waited_and_0_for_what_is_there(store, slots, gate):
    link, started = DiskLink(store, slots), perf_counter()
    link.submit(Plan(0, loads=(Load(A, 0),)))
    gate.until_begun(1)
    timer = threading.Timer(0.3, gate.open, [1])
    timer.start()
    assert link.wait(0)
    assert 0 < link.stats().stall_s <= perf_counter() - started
    assert not link.wait(0)
    assert not link.wait(3)
    assert 0 < link.stats().busy_s <= perf_counter() - started
    link.close()
    timer.join()


def test_demand_overtakes_a_guess_between_its_chunks(store, slots, gate):
    link = DiskLink(store, slots, chunk_bytes=4096)
    link.submit(Plan(0, loads=(Load(A, 0, speculative=True), Load(C, 2, speculative=True))))
    gate.until_begun(1)
    link.submit(Plan(1, loads=(Load(B, 1),)))
    gate.open(6)
    gate.until_begun(6)
    for slot in (0, 1, 2):
        link.wait(slot)
    link.close()
    assert gate.begun == [(A, 0), (B, 0), (B, 1), (A, 1), (C, 0), (C, 1)]
    assert all(holds(slots.records[slot], e) for slot, e in enumerate((A, B, C)))


def test_a_guess_that_is_waited_for_passes_the_other_guesses(store, slots, gate):
    link = DiskLink(store, slots)
    prefetches = [Load(expert, slot, speculative=True) for slot, expert in enumerate((A, B, C))]
    link.submit(Plan(0, loads=tuple(prefetches)))
    gate.until_begun(1)
    waited: list[float] = []
    waiter = threading.Thread(target=lambda: waited.append(link.wait(2)))
    waiter.start()
    gate.until_begun(2)
    assert [expert for expert, _ in gate.begun] == [A, C]
    gate.open(3)
    waiter.join()
    assert waited[0] > 0
    link.wait(1)
    link.close()


def test_a_dropped_guess_that_has_not_begun_is_never_read(store, slots, gate):
    link = DiskLink(store, slots)
    link.submit(Plan(0, loads=(Load(A, 0), Load(B, 1, speculative=True))))
    gate.until_begun(1)
    link.submit(Plan(1, loads=(Load(C, 1),), dropped=(Eviction(B, 1),)))
    gate.open(2)
    link.wait(0)
    link.wait(1)
    link.close()
    assert [expert for expert, _ in gate.begun] == [A, C]
    assert link.stats().bytes_moved == 2 * LAYOUT.bytes
    assert holds(slots.records[1], C)


def test_a_thread_that_waits_reads_what_is_demanded_but_no_guesses(store, slots, gate):
    link = DiskLink(store, slots)
    link.submit(Plan(0, loads=(Load(A, 0), Load(B, 1))))
    gate.until_begun(1)
    link.submit(Plan(0, loads=(Load(C, 2, speculative=True),)))
    waiter = threading.Thread(target=link.wait, args=[0])
    waiter.start()
    gate.until_begun(2)
    sleep(0.02)
    assert [expert for expert, _ in gate.begun] == [A, B]
    gate.open(3)
    waiter.join()
    for slot in (1, 2):
        link.wait(slot)
    link.close()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_place_is_not_read_into_before_an_older_read_ends(store, slots, gate, threads):
    link = DiskLink(store, slots, threads, chunk_bytes=4096)
    link.submit(Plan(0, loads=(Load(A, 0, speculative=True),)))
    gate.until_begun(threads)
    link.submit(Plan(1, loads=(Load(B, 0),), dropped=(Eviction(A, 0),)))
    sleep(0.02)
    assert all(expert == A for expert, _ in gate.begun)
    gate.open(4)
    link.wait(0)
    link.close()
    assert sorted(gate.begun[:2]) == [(A, 0), (A, 1)]
    assert sorted(gate.begun[2:]) == [(B, 0), (B, 1)]
    assert holds(slots.records[0], B)


def test_a_taken_back_read_leaves_the_one_before_it_in_the_way(store, slots, gate):
    link = DiskLink(store, slots, threads=2)
    link.submit(Plan(0, loads=(Load(A, 0, speculative=True),)))
    gate.until_begun(1)
    link.submit(Plan(1, loads=(Load(B, 0, speculative=True),), dropped=(Eviction(A, 0),)))
    link.submit(Plan(2, loads=(Load(C, 0),), dropped=(Eviction(B, 0),)))
    sleep(0.02)
    gate.open(2)
    link.wait(0)
    link.close()
    assert [expert for expert, _ in gate.begun] == [A, C]
    assert holds(slots.records[0], C)


def test_an_error_comes_out_of_wait_and_the_link_goes_on(store, slots, monkeypatch):
    def fail_once(file, buffers, offset):
        monkeypatch.setattr(os, "preadv", really)
        raise OSError(errno.EIO, "Input/output error")

    really = os.preadv
    link = DiskLink(store, slots, chunk_bytes=4096)
    monkeypatch.setattr(os, "preadv", fail_once)
    link.submit(Plan(0, loads=(Load(B, 0), Load(C, 1))))
    with pytest.raises(RuntimeError, match=r"expert 2 of layer 1 .* Input/output error") as caught:
        link.wait(0)
    assert "\n" not in str(caught.value)
    link.wait(1)
    link.submit(Plan(1, loads=(Load(B, 0),)))
    link.wait(0)
    link.close()
    assert holds(slots.records[0], B)
    assert holds(slots.records[1], C)


def test_an_interrupted_wait_leaves_a_link_that_works(store, slots, monkeypatch):
    def interrupted(file, buffers, offset):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        hold.wait(10)
        return really(file, buffers, offset)

    really, hold = os.preadv, threading.Event()
    link = DiskLink(store, slots)
    monkeypatch.setattr(os, "preadv", interrupted)
    link.submit(Plan(0, loads=(Load(A, 0), Load(B, 1))))
    with pytest.raises(KeyboardInterrupt):
        link.wait(0)
    hold.set()
    monkeypatch.setattr(os, "preadv", really)
    link.submit(Plan(1, loads=(Load(C, 0), Load(A, 1))))
    link.wait(0)
    link.wait(1)
    link.close()
    assert holds(slots.records[0], C)
    assert holds(slots.records[1], A)


def test_closing_leaves_no_thread_and_no_handle_also_with_work_queued(folder, slots):
    threads, before = threading.active_count(), handles()
    store = opened(folder)
    link = DiskLink(store, slots, threads=3)
    prefetches = [Load(expert, slot, speculative=True) for slot, expert in enumerate((A, B, C))]
    link.submit(Plan(0, loads=tuple(prefetches)))
    link.close()
    link.close()
    store.close()
    assert threading.active_count() == threads
    assert handles() == before


def test_no_thread_is_refused():
    with pytest.raises(ValueError, match=r"memory.reader_threads=0: expected at least 1"):
        Memory(reader_threads=0)


def test_an_emulated_link_reads_files_too(store, slots):
    link = EmulatedLink(store, slots, HardwareProfile("slow", link_bytes_per_s=1e6))
    link.submit(Plan(0, loads=(Load(A, 0), Load(B, 3))))
    assert link.wait(0)
    link.wait(3)
    assert link.stats().stall_s > 0.01
    link.close()
    assert holds(slots.records[0], A)
    assert holds(slots.records[3], B)


@pytest.mark.parametrize("kind", [DiskLink, EmulatedLink])
def test_on_a_gpu_a_stream_of_the_user_s_own_is_refused(store, slots, kind, monkeypatch):
    given = () if kind is DiskLink else (HardwareProfile("fast", link_bytes_per_s=1e12),)
    link, plan, current = kind(store, slots, *given), Plan(0, loads=(Load(A, 0),)), [1]
    monkeypatch.setattr(torch.cuda, "default_stream", lambda _: 0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: current[0])
    link.slots = SimpleNamespace(
        records=SimpleNamespace(is_cuda=True, device="cuda:0"), bring=slots.bring
    )
    with pytest.raises(RuntimeError, match=f"link={link.name}: .* another one is current"):
        link.submit(plan)
    current[0] = 0
    link.submit(plan)
    link.wait(0)
    link.close()
    assert holds(slots.records[0], A)


def test_of_what_was_checked_before_a_part_is_there_before_the_rest(store, slots, gate):
    gate.open(2)
    store.read(A, slots.records[3])
    link = DiskLink(store, slots, chunk_bytes=4096)
    link.submit(Plan(0, loads=(Load(A, 0),)))
    gate.until_begun(3)  # who waits for a part earlier helps, and would read the rest itself
    link.wait_part(0, 4096)
    assert torch.equal(slots.records[0][:4096], slots.records[3][:4096])
    timer = threading.Timer(0.3, gate.open, [1])
    timer.start()
    assert not link.wait_part(0, 4096)
    assert link.wait_part(0, 4097)
    assert not link.wait(0)
    assert holds(slots.records[0], A)
    link.close()
    timer.join()


def test_what_was_never_checked_is_waited_for_whole(store, slots, gate):
    link = DiskLink(store, slots, chunk_bytes=4096)
    link.submit(Plan(0, loads=(Load(A, 0),)))
    gate.open(1)
    gate.until_begun(2)
    timer = threading.Timer(0.3, gate.open, [1])
    timer.start()
    assert link.wait_part(0, 1)
    assert holds(slots.records[0], A)
    link.close()
    timer.join()


def test_a_part_s_failure_is_raised_by_whoever_waits_for_it(store, slots, monkeypatch):
    def failing(file, buffers, offset):
        if offset % LAYOUT.bytes:
            raise OSError(errno.EIO, "no such sector")
        return really(file, buffers, offset)

    store.read(A, slots.records[3])
    really = os.preadv
    monkeypatch.setattr(os, "preadv", failing)
    link = DiskLink(store, slots, chunk_bytes=4096)
    link.submit(Plan(0, loads=(Load(A, 0),)))
    with pytest.raises(RuntimeError, match="no such sector"):
        link.wait_part(0, 8192)
    link.close()
