"""The modelled link: queueing, latency, overtaking, taking back."""

from __future__ import annotations

import pytest

from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.hardware.link_model import LinkTimeline
from moex.hardware.profile import HardwareProfile
from moex.sim.clock import Clock
from moex.types import Expert, Geometry, Load, Plan


def test_a_transfer_takes_latency_plus_bytes_over_bandwidth():
    link = LinkTimeline(bytes_per_s=1000, latency_s=0.5, chunk_bytes=100)
    transfer = link.submit(2.0, 250)
    assert link.arrival(2.0, transfer) == pytest.approx(2.75)
    link.advance(10)
    assert transfer.done == pytest.approx(2.75)
    assert (link.bytes_moved, link.busy_s) == (250, pytest.approx(0.75))


def test_demand_overtakes_speculation_at_a_chunk_boundary():
    link = LinkTimeline(bytes_per_s=100, chunk_bytes=100)
    prefetch = link.submit(0.0, 300, speculative=True)
    demand = link.submit(0.5, 100)  # the prefetch's first chunk ends at 1.0
    assert link.arrival(0.5, demand) == pytest.approx(2.0)
    assert link.arrival(0.5, prefetch) == pytest.approx(4.0)


def test_a_guess_that_has_not_begun_is_taken_back_and_one_under_way_is_not():
    link = LinkTimeline(bytes_per_s=100, chunk_bytes=100)
    first = link.submit(0.0, 200, speculative=True)
    second = link.submit(0.0, 200, speculative=True)
    assert link.cancel(0.5, second)
    assert not link.cancel(0.5, first)
    link.advance(10)
    assert link.bytes_moved == 200


def test_demand_goes_first_of_what_comes_to_an_idle_link_at_one_moment():
    link = LinkTimeline(bytes_per_s=100, chunk_bytes=100)
    link.submit(1.0, 300, speculative=True)
    demand = link.submit(1.0, 100)
    link.advance(10)
    assert demand.done == pytest.approx(2.0)


def test_a_guess_can_be_taken_back_at_the_moment_it_came():
    link = LinkTimeline(bytes_per_s=100, chunk_bytes=100)
    assert link.cancel(1.0, link.submit(1.0, 100, speculative=True))


def test_an_idle_link_starts_when_something_comes():
    link = LinkTimeline(bytes_per_s=100, chunk_bytes=1000)
    link.submit(0.0, 100)
    late = link.submit(5.0, 100)
    assert link.arrival(5.0, late) == pytest.approx(6.0)


def test_demand_waits_its_turn_behind_demand():
    link = LinkTimeline(bytes_per_s=100, chunk_bytes=10)
    transfers = [link.submit(0.0, 100) for _ in range(3)]
    assert [link.arrival(0.0, t) for t in transfers] == pytest.approx([1.0, 2.0, 3.0])


def test_a_guess_that_is_waited_for_overtakes_other_guesses():
    link = LinkTimeline(100.0, chunk_bytes=50)
    wrong = link.submit(0.0, 200, speculative=True)
    right = link.submit(0.0, 100, speculative=True)
    assert link.arrival(0.2, right) == pytest.approx(1.5)  # after the chunk under way
    link.advance(10.0)
    assert (right.done, wrong.done) == pytest.approx((1.5, 3.0))


def test_a_guess_that_is_waited_for_stands_behind_demand():
    link = LinkTimeline(100.0, chunk_bytes=50)
    prefetch = link.submit(0.0, 100, speculative=True)
    demand = link.submit(0.2, 100)
    assert link.arrival(0.2, prefetch) == pytest.approx(2.0)
    assert link.arrival(0.2, demand) == pytest.approx(1.5)


def test_every_load_of_a_plan_costs_the_computing_lane_its_handing_over():
    profile = HardwareProfile("test", link_bytes_per_s=1e12, submit_s=1.0, handover_s=0.25)
    geometry = Geometry(1, 4, 2, 5, 3, 100)
    clock = Clock(profile, geometry, ExpertCache(LRU(), geometry, 2))
    clock.submit(Plan(0))
    assert clock.now == 0
    clock.submit(Plan(0, loads=tuple(Load(Expert(0, n), n) for n in range(3))))
    assert clock.now == 1.75
    assert clock.wait(2) == 0  # it has crossed meanwhile


def test_latency_is_not_waited_for_again_by_who_asks_late():
    link = LinkTimeline(bytes_per_s=100, latency_s=0.5, chunk_bytes=100)
    transfer = link.submit(0.0, 300)
    assert link.arrival(1.0, transfer) == pytest.approx(3.5)


def machine(**costs: float) -> Clock:
    profile = HardwareProfile("test", link_bytes_per_s=100, **costs)
    geometry = Geometry(1, 4, 2, 4, 4, 100)
    return Clock(profile, geometry, ExpertCache(LRU(), geometry, 2))


def test_what_has_come_is_not_waited_for():
    clock = machine()
    clock.submit(Plan(0, loads=(Load(Expert(0, 0), 0),)))
    clock.now = 5.0
    assert (clock.wait(0), clock.now, clock.stall_s) == (False, 5.0, 0.0)


def test_the_host_computes_one_expert_after_the_other():
    clock = machine(host_expert_s=2.0)
    clock.begin_host(1)
    clock.begin_host(1)
    assert clock.wait_host()
    assert clock.stall_s == 4.0
