"""Which level each expert of a visit is asked for, by the routing weight that comes before it."""

from __future__ import annotations

import pytest

from moex.cache.lru import LRU
from moex.cache.memory import Memory
from moex.cache.variants.slice_cache import ABSENT, HIGH, WHOLE, SliceCache
from moex.decisions.decisions import Decisions
from moex.miss.base import weight_before
from moex.miss.fetch import Fetch
from moex.miss.low_bits import LowBits
from moex.miss.slices import Slices
from moex.types import DECODE, Access, Expert, Geometry

GEOMETRY = Geometry(1, 8, 4, 8, 8, expert_bytes=1000)
SCORES = (0.0, 0.1, 0.3, 0.0, 0.0, 0.4, 0.0, 0.2)
ACCESS = Access(0, 0, 0, DECODE, (5, 2, 7, 1), SCORES)


def test_weight_before_an_expert_is_that_of_the_visit_s_better_ones():
    assert weight_before(ACCESS, Slices()) == pytest.approx([0.0, 0.4, 0.7, 0.9])
    mixed = ACCESS._replace(experts=(1, 7, 5, 2))
    assert weight_before(mixed, Slices()) == pytest.approx([0.9, 0.7, 0.0, 0.4])
    chosen = ACCESS._replace(experts=(2, 7))
    assert weight_before(chosen, Slices()) == pytest.approx([0.0, 0.6])


def test_low_bits_asks_for_less_the_more_weight_comes_before():
    assert LowBits().levels(ACCESS) == [WHOLE, WHOLE, HIGH, HIGH]
    assert LowBits(0.3, 0.8).levels(ACCESS) == [WHOLE, HIGH, HIGH, ABSENT]
    assert LowBits(0.0, 0.0).levels(ACCESS) == [WHOLE, ABSENT, ABSENT, ABSENT]


def test_slices_asks_for_both_only_of_important_experts_and_skips_none():
    assert Slices().levels(ACCESS) == [WHOLE, WHOLE, HIGH, HIGH]
    assert Slices(important=0.0).levels(ACCESS) == [WHOLE, HIGH, HIGH, HIGH]


@pytest.mark.parametrize("miss", [LowBits(1.0, 1.0), Slices(important=1.0)])
def test_a_threshold_of_1_asks_for_whole_experts(miss):
    nothing = ACCESS._replace(scores=(0.0,) * 8)
    tail = ACCESS._replace(scores=(0.0, 0.0, 0.1, 0.0, 0.0, 0.9, 0.0, 0.0))
    for access in (ACCESS, nothing, tail):
        assert miss.levels(access) == [WHOLE] * 4


def test_only_what_is_not_asked_for_is_skipped():
    missing = [Expert(0, index) for index in (2, 7, 1)]
    assert LowBits(0.3, 0.8).split(ACCESS, missing, 0) == (missing[:2], (), missing[2:], ())
    assert Slices(0.3).split(ACCESS, missing, 0) == (missing, (), [], ())


@pytest.mark.parametrize(
    ("miss", "line"),
    [
        (LowBits(0.9, 0.6), "miss.high=0.9 miss.low=0.6: expected shares with 0 <= high <= low"),
        (LowBits(0.9, float("nan")), "miss.high=0.9 miss.low=nan: expected shares"),
        (Slices(important=2), "miss.important=2: expected a share of a visit's routing weight"),
        (Slices(whole=-1), "miss.whole=-1: expected the share of residents"),
    ],
)
def test_nonsense_is_refused_in_one_line(miss, line):
    decisions = Decisions(LRU(), Memory(4), miss=miss, slices=(600, 400))
    with pytest.raises(ValueError, match=f"^{line}"):
        decisions.build(GEOMETRY)


def test_visits_without_scores_are_refused():
    with pytest.raises(ValueError, match=r"^miss=low_bits: the visits have no router scores"):
        LowBits().levels(ACCESS._replace(scores=()))


@pytest.mark.parametrize("miss", [LowBits(), Slices()])
def test_records_of_one_slice_are_refused_with_the_quantizer_to_type(miss):
    for slices in ((), (1000,)):
        decisions = Decisions(LRU(), Memory(4), miss=miss, slices=slices)
        with pytest.raises(ValueError, match=r"^miss=\w+: .* have one; .* try quant=sliced miss="):
            decisions.build(GEOMETRY)


def test_only_handlers_of_slices_hold_them_apart():
    slices = (600, 400)
    cache = Decisions(LRU(), Memory(4), miss=Slices(), slices=slices).build(GEOMETRY)
    assert isinstance(cache, SliceCache)
    plain = Decisions(LRU(), Memory(4), miss=Fetch(), slices=slices).build(GEOMETRY)
    assert not isinstance(plain, SliceCache)
    assert not plain.low_slots
