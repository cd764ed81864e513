"""Prefetching that is seldom used is paused, by counts alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from traces import random_trace, visit

import moex
from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.decisions.decisions import Decisions
from moex.decisions.governor import (
    FIRST,
    LEAST,
    LONGEST,
    NEVER,
    PROBE,
    WINDOW,
    Governor,
    least_precision,
)
from moex.hardware.profile import HardwareProfile
from moex.prefetch.none import NoPrefetch
from moex.prefetch.oracle import Oracle
from moex.prefetch.random import Random
from moex.prefetch.recorded import Recorded
from moex.runs.report import Report
from moex.sim.simulator import simulate
from moex.types import PREFILL, Eviction, Expert, Plan

NOW = visit(0, 0, 1)
USED = Plan(0, prefetched=(Expert(0, 0),))
DROPPED = Plan(0, dropped=(Eviction(Expert(0, 1), 0),))
LINK = HardwareProfile("link", 1e6, chunk_bytes=25, visit_s=3e-5, expert_bytes=100)
TRACE = random_trace(1, layers=2, experts=32, tokens=2000, sequences=1)


def ends(governor, *plans, times=1, now=NOW):
    """End the prefetches of these plans so many times; whether the next visit may prefetch."""
    for _ in range(times):
        for plan in plans:
            governor.count(now, plan)
    return governor.allows(now)


def pause_of(governor):
    """The visits until prefetching is allowed again."""
    return next(n for n in range(1, 2 * LONGEST) if governor.allows(NOW))


def test_a_window_of_unused_prefetches_pauses_and_pauses_double():
    governor = Governor(LEAST)
    assert ends(governor, DROPPED, times=WINDOW - 1)
    assert not ends(governor, DROPPED)
    assert pause_of(governor) == FIRST
    assert ends(governor, DROPPED, times=PROBE - 1)
    assert not ends(governor, DROPPED)
    assert pause_of(governor) == 2 * FIRST
    for _ in range(20):
        ends(governor, DROPPED, times=PROBE)
        longest = pause_of(governor)
    assert longest == LONGEST


def test_a_good_trial_and_a_good_window_make_the_next_pause_short():
    governor = Governor(LEAST)
    for count in (WINDOW, PROBE):
        ends(governor, DROPPED, times=count)
        pause_of(governor)
    assert ends(governor, USED, times=PROBE)
    assert ends(governor, DROPPED, times=WINDOW - 1), "a whole window is taken after a good trial"
    assert not ends(governor, DROPPED)
    assert pause_of(governor) == 4 * FIRST
    assert ends(governor, USED, times=PROBE + WINDOW)
    ends(governor, DROPPED, times=WINDOW)
    assert pause_of(governor) == FIRST


def test_what_is_used_often_enough_is_never_paused():
    governor = Governor(0.5)
    assert all(ends(governor, DROPPED, USED) for _ in range(10 * WINDOW))


def test_prompts_are_neither_counted_nor_paused():
    governor, prompt = Governor(LEAST), NOW._replace(phase=PREFILL)
    assert ends(governor, DROPPED, times=10 * WINDOW, now=prompt)
    assert governor.allows(NOW)
    assert not ends(governor, DROPPED, times=WINDOW)
    assert governor.allows(prompt)


def test_prefetches_that_end_in_a_pause_are_not_counted_as_its_trial():
    governor = Governor(LEAST)
    ends(governor, DROPPED, times=WINDOW)
    ends(governor, DROPPED, times=PROBE)
    assert pause_of(governor) == FIRST - 1
    assert governor.allows(NOW)


def test_a_reset_begins_anew():
    governor = Governor(LEAST)
    ends(governor, DROPPED, times=WINDOW)
    governor.reset()
    assert ends(governor, DROPPED, times=WINDOW - 1)
    governor.reset()
    assert ends(governor, DROPPED, times=WINDOW - 1)


def test_off_never_pauses_and_never_is_always_paused():
    assert ends(Governor(), DROPPED, times=10 * WINDOW)
    assert (Governor().state, Governor(0.0).state) == ("off", "on")
    governor = Governor(NEVER)
    assert not ends(governor, USED, times=10 * WINDOW)
    assert not governor.allows(NOW._replace(phase=PREFILL))


def test_the_link_decides_how_often_prefetches_must_be_used():
    settings = Decisions(LRU(), prefetcher=Random(), governor=True)

    def least(hardware=None, **other):
        return replace(settings, **other).make_governor(TRACE.geometry, hardware).least

    assert least() == LEAST
    assert least(overlaps=False) == least(HardwareProfile(), overlaps=False) == NEVER
    assert least(LINK, overlaps=False) == least(LINK) < 1, "a timed link overlaps"
    assert least(governor=False) is least(prefetcher=Recorded()) is None


@pytest.mark.parametrize(
    ("seconds", "chunks", "costs", "least"),
    [
        (1, 1, {}, 0),  # over before the demand
        (4, 1, {}, 3 / 4),  # a load in one piece is waited for
        (4, 10, {}, 0.4 / 1.4),
        (2, 10, {"handover_s": 0.1}, 0.3 / 1.3),
        (0.5, 1, {"handover_s": 0.5}, 0.5),
        (4, 1, {"visit_s": 0.0}, LEAST),  # what computing takes is unknown
    ],
)
def test_the_least_precision_is_the_break_even_of_the_profile(seconds, chunks, costs, least):
    size = TRACE.geometry.expert_bytes
    costs = {"visit_s": 0.8, "expert_s": 0.1} | costs
    costs["expert_s"] = costs["visit_s"] / 8
    link = HardwareProfile("link", size / seconds, chunk_bytes=size // chunks, **costs)
    assert least_precision(TRACE.geometry, link, overlaps=True) == pytest.approx(least)


def replayed(prefetcher, governor=None, trace=TRACE, cold=False):
    plans = []
    cache = ExpertCache(LRU(), trace.geometry, 8)
    report = simulate(trace, cache, prefetcher, LINK, cold, plans.append, governor)
    return report, plans


def test_a_random_prefetcher_is_asked_in_a_few_percent_of_visits():
    free, _ = replayed(Random())
    report, _ = replayed(Random(), Governor(LEAST))
    assert (free.governor, free.prefetch_paused) == ("off", 0.0)
    assert report.governor == "on"
    assert report.prefetch_paused > 0.9
    assert report.prefetch_issued < 0.1 * free.prefetch_issued


def test_a_perfect_prefetcher_is_never_paused():
    report, plans = replayed(Oracle(), Governor(LEAST))
    assert report.prefetch_paused == 0.0
    assert plans == replayed(Oracle())[1]


def test_without_a_prefetcher_there_is_no_governor():
    report, plans = replayed(NoPrefetch(), Governor(LEAST))
    assert (report.governor, report.prefetch_paused) == (None, 0.0)
    assert plans == replayed(None)[1]


def test_a_pause_costs_no_prediction():
    asked, never = HardwareProfile("asked", 1e15, predict_s=1.0), Governor(NEVER)
    cache = ExpertCache(LRU(), TRACE.geometry, 8)
    assert simulate(TRACE, cache, Random(), asked, governor=never).decode_s < 1


def test_a_cold_sequence_begins_with_a_fresh_governor():
    both = random_trace(1, layers=2, experts=32, tokens=300, sequences=2)
    second = both.select(slice(len(both) // 2, None))
    _, plans = replayed(Random(), Governor(LEAST), both, cold=True)
    alone, own = replayed(Random(), Governor(LEAST), second)
    assert 0 < alone.prefetch_paused < 1
    loads = [plan.loads for plan in plans if plan.clock >= len(second)]
    assert loads == [plan.loads for plan in own]


def test_python_throttles_unless_told_otherwise_and_minds_the_link():
    def share(**named):
        return moex.simulate(TRACE, LRU(), 8, Random(), **named).prefetch_paused

    assert share() > 0.9
    assert share(governor=False) == 0.0
    copied = replace(TRACE, provenance={"overlaps": False})
    assert moex.simulate(copied, LRU(), 8, Oracle()).prefetch_paused == 1.0
    assert moex.simulate(copied, LRU(), 8, Oracle(), hardware=LINK).prefetch_paused == 0.0


@pytest.mark.parametrize(
    ("issued", "why"), [(9, "too few prefetches were used"), (0, "they hide nothing here")]
)
def test_the_screen_says_in_how_many_visits_prefetching_was_paused(issued, why):
    from moex.cli.console import sentence

    row = Report(requests=9, hit_rate=0.5, prefetcher="gate", prefetch_issued=issued)
    assert "paused" not in sentence(row)
    row.prefetch_paused = 0.25
    assert f"(paused in 25.0 % of visits: {why})" in sentence(row)
