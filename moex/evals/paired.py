"""How far two models are apart on the same items."""

from collections.abc import Mapping
from typing import Any

Items = Mapping[str, Mapping[str, list[tuple[int, float]]]]
"""By task and metric: of every item, in order, its origin and its score."""


def differences(mine: Items, other: Items) -> list[dict[str, Any]]:
    """Return a row for each metric that both have: task, metric, difference, stderr, n.

    The difference is mine less the other's, and its standard error that of the differences of
    items: much smaller than that of either score, for most items come out the same. Items of one
    origin (one sentence) are not independent and are summed first.

    Raises:
        ValueError: the two were not scored on the same items.
    """
    from moex.evals.loss import mean_and_stderr

    rows = []
    for task, metrics in mine.items():
        for metric, scored in metrics.items():
            theirs = other.get(task, {}).get(metric)
            if theirs is None:
                continue
            origins = [origin for origin, _ in scored]
            if origins != [origin for origin, _ in theirs]:
                raise ValueError(
                    f"{task}: {len(scored)} and {len(theirs)} items that are not the same ones; "
                    "expected two evaluations with equal tasks, limit and seed"
                )
            apart = [a - b for (_, a), (_, b) in zip(scored, theirs, strict=True)]
            mean, stderr = mean_and_stderr(apart, origins)
            rows.append(
                {
                    "task": task,
                    "metric": metric,
                    "difference": mean,
                    "stderr": stderr,
                    "n": len(apart),
                }
            )
    return rows
