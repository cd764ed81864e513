"""Paired ratios and their intervals."""

from __future__ import annotations

import pytest

from analysis.paired import in_turns, paired_ratio


def test_a_constant_ratio_has_no_width():
    assert paired_ratio([2, 4, 8], [1, 2, 4])[:3] == pytest.approx((2, 2, 2))


def test_the_interval_is_student_s():
    # logs 0 and ln 4: mean ln 2, standard error ln 2, t = 12.71
    ratio = paired_ratio([1, 4], [1, 1])
    assert ratio.median == pytest.approx(2)
    assert ratio.high == pytest.approx(2 ** (1 + 12.71))


def test_one_pair_is_no_measurement():
    with pytest.raises(ValueError, match="at least 2"):
        paired_ratio([1], [1])


def test_ways_take_turns_and_the_first_turn_is_not_kept():
    clock = iter(range(8))
    assert in_turns(3, lambda: next(clock), lambda: next(clock)) == [[2, 4, 6], [3, 5, 7]]
