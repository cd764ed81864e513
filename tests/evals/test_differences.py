"""Differences between two models on the same items."""

from __future__ import annotations

from math import sqrt

import pytest

from moex.evals.paired import differences


def items(scores: list[float], origins: list[int] | None = None):
    numbered = origins or list(range(len(scores)))
    return {"task": {"acc": list(zip(numbered, scores, strict=True))}}


def test_the_error_is_that_of_the_differences():
    dense = [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    worse = [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    (row,) = differences(items(worse), items(dense))
    apart = [a - b for a, b in zip(worse, dense, strict=True)]
    mean = sum(apart) / 8
    variance = sum((value - mean) ** 2 for value in apart) / 7
    assert row == {
        "task": "task",
        "metric": "acc",
        "difference": mean,
        "stderr": pytest.approx(sqrt(variance / 8)),
        "n": 8,
    }


def test_items_of_one_origin_count_together():
    (alone,) = differences(items([0.0, 0.0, 1.0, 1.0]), items([1.0] * 4))
    (paired,) = differences(
        items([0.0, 0.0, 1.0, 1.0], [0, 0, 1, 1]), items([1.0] * 4, [0, 0, 1, 1])
    )
    assert paired["stderr"] > alone["stderr"]


def test_equal_models_are_no_apart():
    (row,) = differences(items([1.0, 0.0, 1.0]), items([1.0, 0.0, 1.0]))
    assert (row["difference"], row["stderr"]) == (0.0, 0.0)


def test_other_items_are_refused():
    with pytest.raises(ValueError, match="task: 2 and 3 items that are not the same ones"):
        differences(items([1.0, 0.0]), items([1.0, 0.0, 1.0]))
    assert differences(items([1.0]), {"other": {}}) == []
