"""The kernel reads the right bytes into places, in the right order; nothing hangs or is lost."""

from __future__ import annotations

import errno
import gc
import os
import random
import weakref
from itertools import pairwise

import pytest
import torch
from records import EXPERTS, LAYOUT, handles, holds, opened, pack

from moex.link import aio
from moex.link.aio import AHEAD, AioLink, reads_alone
from moex.store import kernel
from moex.store.kernel import KernelReads, Request
from moex.store.slots import Slots, paged
from moex.types import Expert, Left, Load, Plan

A, B, C, D = Expert(0, 1), Expert(1, 2), Expert(2, 3), Expert(0, 3)


def _works() -> bool:
    try:
        KernelReads(1, None).close()
    except OSError:
        return False
    return True


pytestmark = [
    pytest.mark.timeout(60),  # a deadlock is a failure
    pytest.mark.skipif(not _works(), reason="no asynchronous reads here"),
]


class Held(KernelReads):
    """Keeps reads back until they are let go, one after the other; notes the order."""

    def __init__(self, depth, memory):
        super().__init__(depth, memory)
        self.begun, self.held, self.free = [], [], False

    def begin(self, requests):
        self.begun += [(request.file, request.offset) for request in requests]
        self.held += requests
        return len(requests)

    def let_go(self, count=1):
        now, self.held = self.held[:count], self.held[count:]
        assert super().begin(now) == len(now)

    def any_ended(self):
        return super().any_ended()

    def ended(self, wait):
        if wait and not super().any_ended():
            self.let_go()
        return super().ended(wait)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return pack(tmp_path_factory.mktemp("packed") / "p")


@pytest.fixture
def store(folder):
    store = opened(folder)
    if store.io != "direct":
        pytest.skip("no direct reads here")
    yield store
    store.close()


@pytest.fixture
def slots():
    return Slots(LAYOUT, 4)


@pytest.fixture
def link(store, slots):
    link = AioLink(store, slots)
    yield link
    link.close()


@pytest.fixture
def held(store, slots, monkeypatch):
    monkeypatch.setattr(aio, "KernelReads", Held)
    link = AioLink(store, slots)
    yield link
    while link._kernel.held:
        link._kernel.let_go()
    link.close()


def _all_end_with(result, ended):
    return lambda self, wait: [(tag, result) for tag, _ in ended(self, wait)]


def begun(link) -> list[Expert]:
    names = {link.store.where(expert): expert for expert in EXPERTS}
    return [names[where] for where in link._kernel.begun]


def load(*experts, speculative=False, first=0):
    loads = [Load(e, first + n, None, speculative) for n, e in enumerate(experts)]
    return Plan(0, loads=tuple(loads))


def test_loads_hold_their_experts_and_are_counted(store, slots, link):
    for first in range(0, len(EXPERTS), 4):
        link.submit(load(*EXPERTS[first : first + 4]))
        for place, expert in enumerate(EXPERTS[first : first + 4]):
            link.wait(place)
            assert holds(slots.records[place], expert)
            assert link.wait(place) == 0.0
    assert link.wait(3) == 0.0
    assert link.stats().bytes_moved == len(EXPERTS) * LAYOUT.bytes
    assert link.stats().busy_s > 0


def test_all_that_a_plan_demands_is_handed_over_at_once_and_guesses_are_not(held):
    held.submit(load(A, B, C))
    held.submit(load(D, speculative=True, first=3))
    assert begun(held) == [A, B, C]
    for place in range(3):
        held.wait(place)
    assert begun(held) == [A, B, C, D]


def test_guesses_begin_one_by_one_while_experts_are_computed(held):
    held.submit(load(A, B, C, speculative=True))
    assert begun(held) == [A, B, C][:AHEAD]
    for number in range(1, 3):
        held._kernel.let_go()
        while not held._kernel.any_ended():
            pass
        held.used(3)
        assert begun(held) == [A, B, C][: AHEAD + number]


def test_demand_and_a_guess_that_is_waited_for_pass_the_other_guesses(held, slots):
    held.submit(load(A, B, C, speculative=True))
    held.submit(load(D, first=3))
    assert held.wait(2) > 0
    assert begun(held)[: AHEAD + 2] == [A, D, C]
    held.wait(1)
    held.wait(3)
    assert all(holds(slots.records[place], e) for place, e in enumerate((A, B, C, D)))


def test_a_dropped_guess_that_has_not_begun_is_never_read(held, slots):
    held.submit(load(A))
    held.submit(load(B, speculative=True, first=1))
    held.submit(Plan(1, loads=(Load(C, 1),), dropped=(Left(B, 1),)))
    held.wait(0)
    held.wait(1)
    assert begun(held) == [A, C]
    assert holds(slots.records[1], C)


def test_a_place_is_not_read_into_before_an_older_read_ends(held, slots):
    held.submit(load(A, speculative=True))
    held.submit(Plan(1, loads=(Load(B, 0),), dropped=(Left(A, 0),)))
    assert begun(held) == [A]
    held.wait(0)
    assert begun(held) == [A, B]
    assert holds(slots.records[0], B)


def test_random_plans_leave_every_place_with_what_was_loaded_last(store, slots, link):
    draw, guessed = random.Random(0), {}
    for clock in range(1000):
        place, expert = draw.randrange(4), draw.choice(EXPERTS)
        dropped = (Left(guessed.pop(place), place),) if place in guessed else ()
        speculative = draw.random() < 0.6
        link.submit(Plan(clock, loads=(Load(expert, place, None, speculative),), dropped=dropped))
        if speculative:
            guessed[place] = expert
        else:
            link.wait(place)
            assert holds(slots.records[place], expert)
        link.used(place)
        if guessed and draw.random() < 0.3:
            place = draw.choice(list(guessed))
            link.wait(place)
            assert holds(slots.records[place], guessed.pop(place))


def test_a_corrupted_record_and_a_short_file_come_out_of_wait(tmp_path, slots):
    folder = pack(tmp_path / "p")
    data = bytearray((folder / "layer-001.records").read_bytes())
    data[2 * LAYOUT.bytes] ^= 128
    (folder / "layer-001.records").write_bytes(data)
    before = handles()
    store = opened(folder)
    os.truncate(folder / "layer-002.records", LAYOUT.bytes)
    link = AioLink(store, slots)
    link.submit(load(A, B, C))
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


@pytest.mark.parametrize("result", [-errno.EIO, 0, 4096])
def test_a_read_that_fails_is_done_again_and_says_what_the_store_says(
    store, slots, link, monkeypatch, result
):
    def fail(file, buffers, offset):
        raise OSError(errno.EIO, "Input/output error")

    ended = KernelReads.ended
    with monkeypatch.context() as broken:
        broken.setattr(KernelReads, "ended", _all_end_with(result, ended))
        link.submit(load(A))
        link.wait(0)
        assert holds(slots.records[0], A)
        broken.setattr(os, "preadv", fail)
        link.submit(load(B, C))
        with pytest.raises(RuntimeError, match=r"expert 2 of layer 1 .* Input/output error"):
            link.wait(0)
    link.submit(load(D))
    link.wait(0)
    assert holds(slots.records[0], D)
    assert link.stats().bytes_moved == 2 * LAYOUT.bytes


def test_reads_that_the_kernel_refuses_are_the_stores(store, slots, link, monkeypatch):
    begin = KernelReads.begin
    monkeypatch.setattr(KernelReads, "begin", lambda self, requests: begin(self, requests[:1]))
    link.submit(load(A, B))
    monkeypatch.setattr(KernelReads, "begin", lambda *_: (_ for _ in ()).throw(OSError(11, "busy")))
    link.submit(load(C, first=2))
    for place, expert in enumerate((A, B, C)):
        link.wait(place)
        assert holds(slots.records[place], expert)


@pytest.mark.parametrize("where", ["before", "after", "waiting"])
def test_an_interruption_leaves_a_link_that_works(store, slots, link, monkeypatch, where):
    begin, ended = KernelReads.begin, KernelReads.ended

    def interrupted(self, given=(), wait=None):
        if where == "after":
            begin(self, given)
        raise KeyboardInterrupt

    name = "ended" if where == "waiting" else "begin"
    with monkeypatch.context() as broken:
        broken.setattr(KernelReads, name, interrupted)
        if where == "waiting":
            link.submit(load(A, B))
        with pytest.raises(KeyboardInterrupt):
            link.wait(0) if where == "waiting" else link.submit(load(A, B))
    assert KernelReads.ended is ended
    link.submit(load(C))
    link.wait(0)
    link.wait(1)
    assert holds(slots.records[0], C)
    assert holds(slots.records[1], B)


def test_closing_waits_for_the_kernel_also_when_nobody_closes(store, folder):
    before = handles()
    for close in (True, False):
        slots = Slots(LAYOUT, 4)
        link = AioLink(store, slots)
        link.submit(load(A, B, C, D))
        memory = weakref.ref(slots.records)
        if close:
            link.close()
            assert all(holds(slots.records[n], e) for n, e in enumerate((A, B, C, D)))
            link.close()
        del link, slots
        gc.collect()
        assert memory() is None
    assert handles() == before


def test_a_forked_child_reads_for_itself(store, slots, link):
    link.submit(load(A, speculative=True))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            link.submit(load(B, C, first=1))
            link.wait(1)
            link.wait(2)
            code = not (holds(slots.records[1], B) and holds(slots.records[2], C))
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    link.wait(0)
    assert holds(slots.records[0], A)


def test_events_are_logged_and_moves_do_not_overlap(store, slots, link):
    link.log = aio.deque()
    link.submit(load(A, B))
    link.submit(load(C, speculative=True, first=2))
    for place in range(3):
        link.wait(place)
    moves = [event for event in link.log if event[0] == "move"]
    assert [event[1] for event in link.log if event[0] == "load"] == [A, B, C]
    assert all(first[3] <= then[2] for first, then in pairwise(moves))
    assert all(begin <= end for _, _, begin, end, *_ in moves)
    assert {event[0] for event in link.log} == {"move", "load", "stall"}


@pytest.mark.parametrize(("pace", "expected"), [(0.0, "looked"), (1e3, "now"), (None, "midway")])
def test_a_read_that_nobody_watched_took_as_long_as_those_that_were(held, pace, expected):
    held.log = aio.deque()
    held.submit(load(A))
    held.used(3)
    looked = held._looked
    held._kernel.let_go()
    while not held._kernel.any_ended():
        pass
    if pace is not None:
        held._watched = [1, pace]
    busy = held.stats().busy_s
    at = {"looked": looked, "now": held._looked, "midway": (looked + held._looked) / 2}
    (move,) = (event for event in held.log if event[0] == "move")
    assert move[3] == at[expected]
    assert busy == held.stats().busy_s == at[expected] - move[2]
    assert held.wait(0) == 0.0


def test_the_pace_is_that_of_reads_whose_end_is_seen(held):
    held.submit(load(A, B))
    held.wait(1)
    assert held._watched[0] == held.stats().bytes_moved == 2 * LAYOUT.bytes
    assert held._watched[1] == pytest.approx(held.stats().busy_s)


def test_only_small_records_read_around_the_page_cache_are_the_kernels(folder, store, monkeypatch):
    assert reads_alone(store)
    assert not reads_alone(store, LAYOUT.bytes - 1)
    buffered = opened(folder, direct=False)
    assert not reads_alone(buffered)
    buffered.close()


def test_where_the_kernel_has_none_threads_read_and_it_is_said(store, monkeypatch, caplog):
    monkeypatch.setattr(kernel, "NUMBERS", {})
    aio._kernel_reads.cache_clear()
    assert not reads_alone(store)
    assert "no asynchronous reads here" in caplog.text
    aio._kernel_reads.cache_clear()


def test_requests_into_memory_of_ours(store, tmp_path):
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
