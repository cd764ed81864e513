"""The kernel reads the right bytes into places, in the right order, and its seconds are booked."""

from __future__ import annotations

from itertools import pairwise

import pytest
from records import EXPERTS, LAYOUT, A, B, C, D, holds, load, need, opened

from moex.hardware.profile import HardwareProfile
from moex.link import aio
from moex.link.aio import AHEAD, AioLink
from moex.store import linux_aio
from moex.store.linux_aio import AsyncReads, async_reads_work
from moex.types import Eviction, Expert, Load, Plan

pytestmark = pytest.mark.timeout(60)  # a deadlock is a failure


class Holding:
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


@pytest.fixture
def held(store, slots, kind, monkeypatch):
    held = type("Held", (Holding, kind), {})
    monkeypatch.setattr(aio, "AsyncReads", held)
    link = AioLink(store, slots)
    yield link
    while link._aio.held:
        link._aio.let_go()
    link.close()


def begun(link) -> list[Expert]:
    names = {link.store.where(expert): expert for expert in EXPERTS}
    return [names[where] for where in link._aio.begun]


def test_loads_hold_their_experts_and_are_counted(store, slots, link):
    for first in range(0, len(EXPERTS), 4):
        link.submit(load(*EXPERTS[first : first + 4]))
        for slot, expert in enumerate(EXPERTS[first : first + 4]):
            link.wait(slot)
            assert holds(slots.records[slot], expert)
            assert not link.wait(slot)
    assert not link.wait(3)
    assert link.stats().bytes_moved == len(EXPERTS) * LAYOUT.bytes
    assert link.stats().busy_s > 0


def test_a_plans_first_read_goes_alone_then_the_others_and_guesses_last(held):
    held.submit(load(A, B, C))
    held.submit(load(D, speculative=True, first=3))
    assert begun(held) == [A]
    held.wait(0)
    assert begun(held) == [A, B, C]
    held.wait(1)
    held.wait(2)
    assert begun(held) == [A, B, C, D]


def test_demand_does_not_stand_behind_a_guess_under_way(held):
    held.submit(load(A, speculative=True))
    held.submit(load(B, C, first=1))
    assert begun(held) == [A, B]


def test_guesses_begin_one_by_one_while_experts_are_computed(held):
    held.submit(load(A, B, C, speculative=True))
    assert begun(held) == [A, B, C][:AHEAD]
    for number in range(1, 3):
        held._aio.let_go()
        while not held._aio.any_ended():
            pass
        held.used(3)
        assert begun(held) == [A, B, C][: AHEAD + number]


def test_demand_and_a_guess_that_is_waited_for_pass_the_other_guesses(held, slots):
    held.log = aio.deque()
    held.submit(load(A, B, C, speculative=True))
    held.submit(load(D, first=3))
    assert held.wait(2)
    assert [event[3] for event in held.log if event[0] == "stall"] == [held.stats().stall_s]
    assert begun(held)[: AHEAD + 2] == [A, D, C]
    held.wait(1)
    held.wait(3)
    assert all(holds(slots.records[slot], e) for slot, e in enumerate((A, B, C, D)))


def test_a_dropped_guess_that_has_not_begun_is_never_read(held, slots):
    held.submit(load(A))
    held.submit(load(B, speculative=True, first=1))
    held.submit(Plan(1, loads=(Load(C, 1),), dropped=(Eviction(B, 1),)))
    held.wait(0)
    held.wait(1)
    assert begun(held) == [A, C]
    assert holds(slots.records[1], C)


def test_a_place_is_not_read_into_before_an_older_read_ends(held, slots):
    held.submit(load(A, speculative=True))
    held.submit(Plan(1, loads=(Load(B, 0),), dropped=(Eviction(A, 0),)))
    assert begun(held) == [A]
    held.wait(0)
    assert begun(held) == [A, B]
    assert holds(slots.records[0], B)


def test_events_are_logged_and_moves_do_not_overlap(store, slots, link):
    link.log = aio.deque()
    link.submit(load(A, B))
    link.submit(load(C, speculative=True, first=2))
    for slot in range(3):
        link.wait(slot)
    moves = [event for event in link.log if event[0] == "move"]
    assert [event[1] for event in link.log if event[0] == "load"] == [A, B, C]
    assert all(first[3] <= then[2] for first, then in pairwise(moves))
    assert all(begin <= end for _, _, begin, end, *_ in moves)
    assert {"move", "load"} <= {event[0] for event in link.log} <= {"move", "load", "stall"}


@pytest.mark.parametrize(("pace", "expected"), [(0.0, "looked"), (1e3, "now"), (None, "midway")])
def test_a_read_that_nobody_watched_took_as_long_as_those_that_were(held, pace, expected):
    held.log = aio.deque()
    held.submit(load(A))
    held.used(3)
    looked = held._looked
    held._aio.let_go()
    while not held._aio.any_ended():
        pass
    if pace is not None:
        held._watched = [1, pace]
    busy = held.stats().busy_s
    at = {"looked": looked, "now": held._looked, "midway": (looked + held._looked) / 2}
    (move,) = (event for event in held.log if event[0] == "move")
    assert move[3] == at[expected]
    assert busy == held.stats().busy_s == at[expected] - move[2]
    assert not held.wait(0)


def test_the_pace_is_that_of_reads_whose_end_is_seen(held):
    held.submit(load(A, B))
    held.wait(1)
    assert held._watched[0] == held.stats().bytes_moved == 2 * LAYOUT.bytes
    assert held._watched[1] == pytest.approx(held.stats().busy_s)


def test_only_small_records_read_around_the_page_cache_are_the_kernels(folder, store, slots):
    need(AsyncReads, store)
    assert AioLink.suits(store, slots, None)
    assert not AioLink.suits(store, slots, HardwareProfile("x", chunk_bytes=LAYOUT.bytes - 1))
    buffered = opened(folder, direct=False)
    assert not AioLink.suits(buffered, slots, None)
    buffered.close()


def test_where_the_kernel_has_none_threads_read_and_it_is_said(store, slots, monkeypatch, caplog):
    need(AsyncReads, store)
    monkeypatch.setattr(linux_aio, "NUMBERS", {})
    async_reads_work.cache_clear()
    assert not AioLink.suits(store, slots, None)
    assert "Linux asynchronous I/O is not available" in caplog.text
    async_reads_work.cache_clear()
