"""Predictors say what they should, and the simulator bills what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from traces import literal, random_trace

from moex.cache.core import ExpertCache
from moex.cache.lru import LRU
from moex.cli.build import typed_run
from moex.prefetch.base import Observation
from moex.prefetch.markov import Markov
from moex.prefetch.oracle import Oracle
from moex.prefetch.popularity import Popularity
from moex.prefetch.previous import Previous
from moex.prefetch.random import Random
from moex.prefetch.recorded import Recorded
from moex.sim.simulator import simulate
from moex.testing import check_prefetcher
from moex.types import DECODE, Expert, Geometry, Prediction

CONF = Path(__file__).parents[2] / "conf" / "prefetch"
TINY = Geometry(6, 8, 2, 256, 384, 589824)


def said(prefetcher, trace, seed=0):
    """What is said at every visit."""
    if prefetcher.needs:
        prefetcher.set_future(trace)
    prefetcher.reset(trace.geometry, seed)
    everything = []
    for access in trace.accesses():
        observation = Observation(access, trace.lookahead_rows(access.clock))
        prefetcher.observe(observation)
        everything.append(list(prefetcher.predict(observation)))
    return everything


@pytest.mark.parametrize("path", sorted(CONF.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_yaml_builds_a_prefetcher_that_keeps_the_contract(path):
    assert f"prefetch={path.stem}" in path.read_text()
    with initialize_config_dir(str(CONF.parent), version_base="1.3"):
        config = compose("config", overrides=[f"prefetch={path.stem}", "sparsity=none"])

    def make():
        return typed_run(config).prefetch

    check_prefetcher(make, TINY, CONF.parents[1] / "moex" / "assets" / "tiny")
    trace = random_trace(4, layers=3, tokens=20)
    trace.predictions = said(Previous(), trace)
    trace.lookahead = np.random.default_rng(0).random((len(trace), 3 * 8), np.float32)
    trace.lookahead[trace.layer == 2] = np.nan
    trace.lookahead[trace.layer == 1, 8:] = np.nan
    trace.lookahead[trace.layer == 0, 16:] = np.nan
    cache = ExpertCache(LRU(), trace.geometry, 3)
    if path.stem == "history":  # no checkpoint of a model with three layers
        with pytest.raises(FileNotFoundError, match="mode=train prefetch=history"):
            simulate(trace, cache, make())
    elif make().needs & {"hidden", "lookahead_norm"}:
        with pytest.raises(ValueError, match="prefetch=recorded"):
            simulate(trace, cache, make())
    else:
        simulate(trace, cache, make())


def said_of(layer, index, score=1.0):
    return Prediction(Expert(layer, index), score)


def test_the_perfect_oracle_names_exactly_the_next_visits():
    trace = literal([(0, (0, 1)), (1, (2, 3)), (0, (4, 5)), (1, (6, 7), "decode", 1)], layers=2)
    assert said(Oracle(horizon=2), trace) == [
        [said_of(1, 2), said_of(1, 3), said_of(0, 4, 0.5), said_of(0, 5, 0.5)],
        [said_of(0, 4), said_of(0, 5)],
        [],  # the next visit is of another sequence
        [],
    ]


@given(
    precision=st.sampled_from([0.25, 0.5, 0.8, 1.0]), recall=st.sampled_from([0.0, 0.3, 0.7, 1.0])
)
def test_the_degraded_oracle_is_as_good_as_asked(precision, recall):
    trace = random_trace(9, layers=4, experts=40, top_k=3, tokens=150, sequences=1)
    demanded = [{Expert(a.layer, i) for i in a.experts} for a in trace.accesses()]
    everything = said(Oracle(precision, recall), trace)
    named = [{prediction.expert for prediction in row} for row in everything[:-1]]
    right = sum(len(row & wanted) for row, wanted in zip(named, demanded[1:], strict=True))
    assert right / sum(map(len, demanded[1:])) == pytest.approx(recall, abs=0.05)
    if recall:
        assert right / sum(map(len, named)) == pytest.approx(precision, abs=0.05)


def test_what_an_oracle_says_of_a_visit_does_not_depend_on_when():
    trace = random_trace(2, layers=3, experts=12, tokens=30, sequences=1)
    near, far = (said(Oracle(0.5, 0.6, horizon), trace, seed=5) for horizon in (1, 3))
    for clock, (one, other) in enumerate(zip(near, far, strict=True)):
        assert [p.expert for p in other[: len(one)]] == [p.expert for p in one], clock
    assert said(Oracle(0.5, 0.6), trace, seed=6) != near


def test_a_perfect_oracle_leaves_no_demand_misses_but_the_first_visit():
    trace = random_trace(7, layers=3, experts=10, tokens=40, sequences=1)
    cache = ExpertCache(LRU(), trace.geometry, 3)
    report = simulate(trace, cache, Oracle())
    assert report.demand_misses == 2
    assert report.prefetch_wasted == 0
    assert report.oracle


def test_a_guess_counts_in_the_phase_in_which_it_ends():
    visits = [(0, (0, 1), "prefill"), (1, (2, 3), "prefill"), (0, (4, 5)), (1, (6, 7))]
    trace = literal(visits, layers=2)
    report = simulate(trace, ExpertCache(LRU(), trace.geometry, 2), Oracle())
    # The prompt's last layer names 4 and 5, which the first token uses.
    assert (report.prefetch_issued, report.prefetch_used, report.prefetch_wasted) == (4, 4, 0)
    assert report.prefetch_precision == 1
    trace = random_trace(3, layers=3, tokens=40)
    report = simulate(trace, ExpertCache(LRU(), trace.geometry, 3), Random())
    assert report.prefetch_issued == report.prefetch_used + report.prefetch_wasted > 0


def test_recorded_predictions_replay_the_run_that_made_them():
    trace = random_trace(5, layers=3, tokens=40)
    cache, plans, replayed = ExpertCache(LRU(), trace.geometry, 3), [], []
    trace.predictions = said(Markov(), trace)
    simulate(trace, cache, Markov(), on_plan=plans.append)
    simulate(trace, cache, Recorded(), on_plan=replayed.append)
    assert plans == replayed
    trace.predictions = trace.predictions[:5]
    with pytest.raises(ValueError, match="visit 5 of a run whose recording ends after 5"):
        simulate(trace, cache, Recorded())


def test_a_trace_without_predictions_is_refused():
    trace = random_trace(5)
    trace.predictions = None
    with pytest.raises(ValueError, match="prefetch=gate"):
        simulate(trace, ExpertCache(LRU(), trace.geometry, 3), Recorded())


CYCLE = [(0, (0, 1)), (1, (2, 3)), (0, (4, 5)), (1, (6, 7))] * 20


def names(predictions):
    return {prediction.expert for prediction in predictions}


def test_previous_names_what_the_layer_used_last():
    everything = said(Previous(), literal(CYCLE, layers=2))
    assert names(everything[2]) == {Expert(1, 2), Expert(1, 3)}
    assert names(everything[3]) == {Expert(0, 4), Expert(0, 5)}


def test_markov_learns_a_cycle_that_previous_gets_wrong():
    everything = said(Markov(), literal(CYCLE, layers=2))
    assert names(everything[40]) == {Expert(1, 2), Expert(1, 3)}
    assert names(everything[42]) == {Expert(1, 6), Expert(1, 7)}


def test_popularity_names_the_most_used():
    visits = [(0, (0, 1)), (1, (2, 3)), (0, (0, 5)), (1, (2, 7))] * 20
    everything = said(Popularity(width=1, decay=0.9), literal(visits, layers=2))
    assert names(everything[40]) == {Expert(1, 2)}


def test_random_names_distinct_experts_of_the_next_layer():
    everything = said(Random(width=5), literal(CYCLE, layers=2))
    assert all(len(names(row)) == 5 for row in everything)
    assert {p.expert.layer for p in everything[0]} == {1}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Oracle(precision=0), "precision=0"),
        (lambda: Oracle(recall=1.5), "recall=1.5"),
        (lambda: Oracle(horizon=0), "horizon=0"),
        (lambda: Random(width=-1), "width=-1"),
        (lambda: Previous(depth=0), "depth=0"),
        (lambda: Popularity(decay=1), "decay=1"),
        (lambda: Markov(prior=0), "prior=0"),
    ],
)
def test_wrong_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_cold_sequence_begins_with_a_predictor_that_forgot():
    trace = literal([(0, (0, 1)), (0, (2, 3)), (0, (0, 1), DECODE, 1), (0, (2, 3), DECODE, 1)])
    known = []

    class Watched(Previous):
        def observe(self, observation):
            known.append(dict(self.used))
            super().observe(observation)

    simulate(trace, ExpertCache(LRU(), trace.geometry, 2), Watched(), cold=True)
    assert known == [{}, {0: (0, 1)}, {}, {0: (0, 1)}]
