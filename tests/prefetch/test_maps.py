"""Prefetchers that look for the past that resembles the present."""

from __future__ import annotations

import pytest

from moex.cache.eam import EAM as Policy
from moex.prefetch.base import Observation
from moex.prefetch.eam import EAM
from moex.prefetch.expert_map import ExpertMap
from moex.prefetch.library import Library
from moex.testing import check_prefetcher
from moex.types import DECODE, PREFILL, Access, Expert, Geometry, Now, Scope

SHAPE = Geometry(3, 8, 2, 16, 16, 64)
KINDS = (((0, 1), (2, 3), (4, 5)), ((2, 3), (4, 5), (6, 7)), ((2, 3), (6, 7), (0, 1)))
"""What three kinds of passes demand, by layer; the last two begin alike."""


def observed(prefetcher, passes, phase=DECODE, position=0):
    """The experts of the next layer that are predicted at every visit."""
    found = []
    for kind in passes:
        for layer, experts in enumerate(KINDS[kind]):
            seen = Observation(Access(len(found), position, layer, phase, experts))
            prefetcher.observe(seen)
            found.append([p.expert for p in prefetcher.predict(seen)])
        position += 1
    return found


def started(prefetcher):
    prefetcher.reset(SHAPE, 0)
    return prefetcher


@pytest.mark.parametrize("made", [ExpertMap, EAM])
def test_the_contract_is_kept_at_every_width(made):
    for fields in ({}, {"depth": 3, "mass": 0.8}, {"width": 5, "capacity": 2}):
        check_prefetcher(lambda fields=fields: made(**fields))


def test_a_pass_is_predicted_from_the_past_pass_that_began_like_it():
    found = observed(started(ExpertMap()), (0, 1, 2, 1, 2, 0))
    assert found[:3] == [[], [], []]
    for number, kind in ((3, 1), (4, 2), (5, 0)):
        assert found[3 * number + 1] == [Expert(2, index) for index in KINDS[kind][2]]
    assert found[15] == [Expert(1, 2), Expert(1, 3)]


def test_prompts_are_no_maps_but_are_predicted_from_them():
    prefetcher = started(ExpertMap())
    assert not any(observed(prefetcher, (0, 0), PREFILL))
    observed(prefetcher, (1,))
    assert observed(prefetcher, (1,), PREFILL)[0] == [Expert(1, 4), Expert(1, 5)]


def test_maps_hold_the_routers_rows_where_they_are_recorded():
    prefetcher = started(ExpertMap(width=1))
    for position in (0, 1):
        for layer in range(3):
            scores = tuple(0.7 if index == layer + 1 else 0.3 / 7 for index in range(8))
            seen = Observation(Access(0, position, layer, DECODE, (0, 7), scores))
            prefetcher.observe(seen)
            found = prefetcher.predict(seen)
            if position and layer < 2:
                assert [p.expert for p in found] == [Expert(layer + 1, layer + 2)]


def test_a_full_library_replaces_the_map_most_like_the_new_one():
    library = Library(SHAPE, 2)
    for row in ((1, 0, 0), (0, 1, 0), (0, 1, 0.1)):
        for layer in range(3):
            library.note(layer, (*row, 0, 0, 0, 0, 0))
        library.keep()
    assert library.count == 2
    library.note(0, (1, 0, 0, 0, 0, 0, 0, 0))
    assert library.nearest()[1].argmax() == 0
    library.note(0, (0, 0, 1, 0, 0, 0, 0, 0))
    assert library.nearest()[1][2] > 0
    assert library.nearest(2)[1][0] == pytest.approx(0.5)


def test_a_request_is_predicted_from_the_past_request_most_like_it():
    prefetcher = started(EAM())
    assert observed(prefetcher, (0, 0, 0))[3] == [Expert(1, 2), Expert(1, 3)]  # its own counts
    observed(prefetcher, (1, 1, 1))
    assert prefetcher.library.count == 1
    assert observed(prefetcher, (0,))[0] == [Expert(1, 2), Expert(1, 3)]
    found = observed(prefetcher, (1,))
    assert prefetcher.library.count == 3
    assert found[:2] == [[Expert(1, 4), Expert(1, 5)], [Expert(2, 6), Expert(2, 7)]]


def test_scores_of_a_request_fall_with_the_distance_of_the_layer():
    prefetcher = started(EAM(depth=2))
    observed(prefetcher, (0,))
    seen = Observation(Access(3, 1, 0, DECODE, (0, 1)))
    prefetcher.observe(seen)
    near, *_, far = prefetcher.predict(seen)
    assert (near.expert.layer, far.expert.layer) == (1, 2)
    assert near.score > far.score


def test_the_eviction_policy_shares_the_counts_of_a_request():
    policy = Policy(past=0.5)
    policy.reset(Scope(4, [0], 8, 2, 0))
    for clock, (position, experts) in enumerate(((0, (0, 1)), (1, (0, 2)), (0, (3, 0)))):
        policy.on_visit(Access(clock, position, 0, DECODE, experts))
    # Of the first request half counts: 1 of expert 0, .5 of 1 and 2; the second uses 3 and 0.
    now, uses = Now(2, 0, 0, DECODE), (2, 0.5, 0.5, 1)
    for index, used in enumerate(uses):
        assert policy.score(Expert(0, index), now) == pytest.approx(used / 4 + policy.floor)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExpertMap(capacity=0), "prefetch.capacity=0: expected 1"),
        (lambda: ExpertMap(nearest=0), "prefetch.nearest=0: expected 1"),
        (lambda: EAM(capacity=0), "prefetch.capacity=0: expected 1"),
        (lambda: EAM(width=2, mass=0.5), "expected one of them"),
    ],
)
def test_wrong_fields_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
