"""Ratios that hold: interleaved pairs, their median, and the interval of their geometric mean."""

from __future__ import annotations

from math import exp, log, sqrt
from statistics import median, stdev
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Two-sided 95 % quantiles of Student's t for 1 to 30 degrees of freedom; beyond them the normal's.
T95 = (
    12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
    2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


class Ratio(NamedTuple):
    """Median of the pairs' ratios, and the 95 % interval of their geometric mean."""

    median: float
    low: float
    high: float
    pairs: int

    def __str__(self) -> str:
        return f"{self.median:.3f}x [{self.low:.3f}, {self.high:.3f}] over {self.pairs} pairs"


def paired_ratio(mine: Sequence[float], other: Sequence[float]) -> Ratio:
    """Compare two series measured in turns: `mine[i] / other[i]`.

    Raises:
        ValueError: fewer than two pairs, or series of two lengths.
    """
    if len(mine) != len(other) or len(mine) < 2:
        raise ValueError(
            f"pairs: {len(mine)} and {len(other)} measurements given; expected the same number, "
            "at least 2 (7 for a claim)"
        )
    logs = [log(a / b) for a, b in zip(mine, other, strict=True)]
    mean = sum(logs) / len(logs)
    freedom = len(logs) - 1
    t = T95[freedom - 1] if freedom <= len(T95) else 1.96
    half = t * stdev(logs) / sqrt(len(logs))
    return Ratio(exp(median(logs)), exp(mean - half), exp(mean + half), len(logs))


def in_turns(repeats: int, *ways: Callable[[], float]) -> list[list[float]]:
    """Measure every way `repeats` times, in turns; what comes before them is warmth and not kept.

    Args:
        repeats: turns that count.
        ways: measure once, and return e.g. seconds.

    Returns:
        The measurements of each way, in order.
    """
    turns = [[way() for way in ways] for _ in range(repeats + 1)]
    return [list(measured) for measured in zip(*turns[1:], strict=True)]
