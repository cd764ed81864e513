"""What each handler does with the misses of a visit, and what it refuses."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import pytest

from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.hardware.profile import HardwareProfile
from moex.miss.fetch import Fetch
from moex.miss.host import Host
from moex.miss.hybrid import Hybrid
from moex.miss.skip import Skip
from moex.types import DECODE, PREFILL, Access, Expert, Geometry

GEOMETRY = Geometry(1, 8, 4, 8, 8, expert_bytes=1000)
MISSING = [Expert(0, index) for index in (5, 2, 7, 1)]
SCORES = (0.0, 0.1, 0.3, 0.0, 0.0, 0.4, 0.0, 0.2)
ACCESS = Access(0, 0, 0, DECODE, (5, 2, 7, 1), SCORES)


def test_fetch_fetches_all():
    assert Fetch().split(ACCESS, MISSING, 0) == (MISSING, (), (), ())


def test_host_fetches_only_while_slots_are_empty():
    assert Host().split(ACCESS, MISSING, 3)[:2] == (MISSING[:3], MISSING[3:])
    assert Host().split(ACCESS, MISSING, 0)[:2] == ([], MISSING)


@pytest.mark.parametrize(
    ("load_s", "host_s", "worth_s", "fetched"),
    [
        (3.0, 1.0, 0.0, 1),  # 1 load beside 3 on the host: 3 s
        (1.0, 1.0, 0.0, 2),
        (1.0, 3.0, 0.0, 3),
        (9.0, 1.0, 0.0, 0),
        (9.0, 1.0, inf, 4),
        (1.0, 9.0, -inf, 0),
        (9.0, 1.0, 9.0, 4),  # what they save later pays for the waiting
    ],
)
def test_hybrid_ends_soonest(load_s, host_s, worth_s, fetched):
    split = Hybrid(load_s, host_s, worth_s).split(ACCESS, MISSING, 0)
    assert (split.fetch, split.host) == (MISSING[:fetched], MISSING[fetched:])


def test_hybrid_fills_empty_slots_first():
    assert len(Hybrid(9.0, 1.0).split(ACCESS, MISSING, 3).fetch) == 3


def test_hybrid_takes_its_constants_from_the_profile_or_says_which_is_missing():
    profile = HardwareProfile(link_bytes_per_s=1e6, link_latency_s=1e-3, host_bytes_per_s=5e5)
    bound = Hybrid().bound(GEOMETRY, profile)
    assert (bound.load_s, bound.host_s) == pytest.approx((2e-3, 2e-3))
    assert Hybrid(load_s=7.0).bound(GEOMETRY, profile).load_s == 7.0
    with pytest.raises(ValueError, match=r"miss.load_s=null: .* try miss.load_s=0.004"):
        Hybrid(host_s=1.0).bound(GEOMETRY, HardwareProfile())
    with pytest.raises(ValueError, match=r"miss.host_s=null: .* try miss.host_s=0.002"):
        Hybrid(load_s=1.0).bound(GEOMETRY, HardwareProfile(link_bytes_per_s=1e6))


def test_skip_leaves_out_small_shares_only():
    split = Skip(0.2).bound(GEOMETRY, None).split(ACCESS, MISSING, 0)
    assert split.fetch == [Expert(0, 5), Expert(0, 2), Expert(0, 7)]
    assert split.skipped == [Expert(0, 1)]
    with pytest.raises(ValueError, match=r"miss.threshold=0.25: .* less than 1 / top-k = 0.25"):
        Skip(0.25).bound(GEOMETRY, None)
    with pytest.raises(ValueError, match="visits have no router scores"):
        Skip().split(ACCESS._replace(scores=()), MISSING, 0)


@dataclass
class Everywhere:
    """Skips the first miss, computes the second on the host, fetches the others."""

    def split(self, access, missing, room):
        self.room = room
        return missing[2:], missing[1:2], missing[:1]


def test_the_cache_books_every_access_once_and_admits_only_what_was_fetched():
    handler = Everywhere()
    cache = ExpertCache(LRU(), GEOMETRY, 4, split=handler.split)
    (plan,) = cache.request(ACCESS)
    assert handler.room == 4
    assert plan.skipped == (Expert(0, 5),)
    assert plan.host == (Expert(0, 2),)
    assert [load.expert.index for load in plan.loads] == [7, 1]
    assert cache.residents(0) == [Expert(0, 1), Expert(0, 7)]
    (plan,) = cache.request(ACCESS._replace(clock=1))
    assert [expert.index for expert in plan.hits] == [7, 1]
    assert (plan.host, plan.skipped, plan.loads) == ((Expert(0, 2),), (Expert(0, 5),), ())


def test_prefill_fetches_whatever_the_handler_says():
    cache = ExpertCache(LRU(), GEOMETRY, 4, split=Everywhere().split)
    (plan,) = cache.request(ACCESS._replace(phase=PREFILL))
    assert len(plan.loads) == 4
