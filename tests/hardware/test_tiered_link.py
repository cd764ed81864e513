"""Two links in series: an expert is read from the disk, then moved to the device."""

from __future__ import annotations

import random

import pytest

from moex.hardware.link_model import LinkTimeline
from moex.hardware.profile import HardwareProfile
from moex.hardware.tiered_link import TieredTimeline, timeline


def tiers(disk=10.0, link=100.0, chunk=1000):
    return TieredTimeline(LinkTimeline(disk, 0.0, chunk), link, 0.0, chunk)


def test_an_expert_from_the_disk_crosses_both_links():
    link = tiers()
    assert link.arrival(0.0, link.fetch(0.0, 100)) == pytest.approx(10 + 1)


def test_an_expert_from_host_memory_crosses_one():
    link = tiers()
    assert link.arrival(0.0, link.submit(0.0, 100)) == pytest.approx(1)


def test_both_links_work_at_once():
    link = tiers(disk=10, link=10)
    first, second = link.fetch(0.0, 100), link.fetch(0.0, 100)
    hit = link.submit(0.0, 100)
    assert link.arrival(0.0, hit) == pytest.approx(10)  # while the first is read
    assert link.arrival(0.0, first) == pytest.approx(20)
    assert link.arrival(0.0, second) == pytest.approx(30)
    link.advance(40)
    assert (link.busy_s, link.disk.busy_s) == (pytest.approx(30), pytest.approx(20))
    assert (link.bytes_moved, link.disk.bytes_moved) == (300, 200)


def test_demand_overtakes_prefetches_on_the_disk():
    link = tiers(chunk=10)
    early = link.fetch(0.0, 100, speculative=True)
    demanded = link.fetch(0.5, 100)
    assert link.arrival(0.5, demanded) == pytest.approx(1 + 10 + 1)
    assert link.arrival(12.0, early) == pytest.approx(20 + 1)


def test_a_prefetch_is_cancelled_only_before_its_read_begins():
    link = tiers()
    running, queued = (link.fetch(0.0, 100, speculative=True) for _ in range(2))
    assert not link.cancel(1.0, running)
    assert link.cancel(1.0, queued)
    link.advance(100.0)
    assert (link.disk.bytes_moved, link.bytes_moved) == (100, 100)


def test_arrivals_are_those_of_a_step_by_step_run():
    """What is predicted when it is waited for is when it arrives."""
    draws = random.Random(3)
    for _ in range(200):
        link, now, waiting = tiers(chunk=draws.choice([7, 30, 500])), 0.0, []
        for _ in range(12):
            send = draws.choice([link.submit, link.fetch])
            waiting.append(send(now, draws.randint(1, 120), draws.random() < 0.4))
            now += draws.random() * 4
            if draws.random() < 0.5:
                transfer = waiting.pop(draws.randrange(len(waiting)))
                when = link.arrival(now, transfer)
                now = max(now, when)
                link.advance(now + 1e-6)
                assert transfer.done == pytest.approx(when)


def test_a_profile_without_a_disk_is_refused():
    profile = HardwareProfile("fast", link_bytes_per_s=1e9)
    with pytest.raises(ValueError, match=r"try \+\+hardware.disk_bytes_per_s=5e9"):
        timeline(profile, tiered=True)
    assert type(timeline(profile, tiered=False)) is LinkTimeline
