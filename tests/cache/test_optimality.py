"""Belady against every possible run, in both forms, on traces small enough to try them all."""

from __future__ import annotations

import random

import pytest
from traces import fewest

from moex.cache.belady import Belady
from moex.cache.core import ExpertCache
from moex.types import DECODE, Access, Future, Geometry

CASES = 1000


def case(seed: int) -> tuple[list[frozenset[int]], int, int]:
    """Visits that fit the pool, of one to three experts; (visits, experts, slots)."""
    draws = random.Random(seed)
    experts = draws.randint(3, 6)
    top_k = draws.randint(1, min(3, experts - 1))
    slots = draws.randint(top_k, experts - 1)
    visits = [
        frozenset(draws.sample(range(experts), draws.randint(1, top_k)))
        for _ in range(draws.randint(4, 10))
    ]
    return visits, experts, slots


def loads(visits: list[frozenset[int]], experts: int, slots: int, bypass: bool, seed: int) -> int:
    draws = random.Random(seed)
    accesses = [
        Access(n, n, 0, DECODE, tuple(draws.sample(sorted(visit), len(visit))))
        for n, visit in enumerate(visits)
    ]
    geometry = Geometry(1, experts, max(map(len, visits)), 1, 1, 1)
    cache = ExpertCache(Belady(bypass=bypass), geometry, slots, future=Future(accesses))
    return sum(len(plan.loads) for access in accesses for plan in cache.request(access))


@pytest.mark.parametrize("bypass", [False, True], ids=["forced", "bypass"])
def test_belady_equals_brute_force_on_1000_random_cases(bypass):
    for seed in range(CASES):
        visits, experts, slots = case(seed)
        found = loads(visits, experts, slots, bypass, seed)
        assert found == fewest(visits, slots, bypass), f"seed {seed}"


def test_bypass_never_loads_more_than_forced_admission():
    for seed in range(CASES):
        visits, experts, slots = case(seed)
        assert loads(visits, experts, slots, True, seed) <= loads(
            visits, experts, slots, False, seed
        )
