"""Cells of a study: rows that differ in nothing but their seed, with an interval over repeats."""

from __future__ import annotations

from math import sqrt

import pandas as pd

from analysis.paired import T95

CONTEXT = ["model", "workload", "smoke"]
"""What one figure has in common: rows that differ here make figures of their own."""

ALSO = ("policy", "prefetcher", "slots", "hardware", "runner", "trace", "code")
"""Fields that a message names, besides the leaves of the configuration."""


def cells(rows: pd.DataFrame, keys: list[str], value: str) -> pd.DataFrame:
    """Return one line for each combination of `keys`: `middle`, `low`, `high` and `n`.

    Repeats are rows of other seeds: the middle is their median, low and high the 95 % interval of
    their mean. A single row of an accuracy has its standard error instead, a single live speed its
    interquartile range; a single simulated row has no interval, because it would come out the same
    again.

    Raises:
        ValueError: two rows of one combination and seed that differ, so that something is missing
            in `keys`; the message names what.
    """
    lines, stderr = [], f"{value}_stderr"
    for names, group in rows.groupby(keys, dropna=False, sort=True):
        for _, same in group.groupby("seed"):
            if same[value].nunique() > 1:
                raise ValueError(_ambiguous(same, keys, names))
        once = group.drop_duplicates("seed")
        values = once[value].astype(float)
        middle, half = float(values.median()), 0.0
        low = high = middle
        if len(values) > 1:
            t = T95[min(len(values), len(T95) + 1) - 2]
            half = t * float(values.std()) / sqrt(len(values))
            low, high = float(values.mean()) - half, float(values.mean()) + half
        elif value == "tokens_per_second" and once["tokens_per_second_iqr"].notna().all():
            half = float(once["tokens_per_second_iqr"].iloc[0]) / 2
            low, high = middle - half, middle + half
        elif stderr in once and once[stderr].notna().all():
            half = float(once[stderr].iloc[0])
            low, high = middle - half, middle + half
        lines.append((*names, middle, low, high, len(values)))
    return pd.DataFrame(lines, columns=[*keys, "middle", "low", "high", "n"])


def _ambiguous(same: pd.DataFrame, keys: list[str], names: tuple[object, ...]) -> str:
    what = ", ".join(f"{key}={name}" for key, name in zip(keys, names, strict=True))
    differing = [
        column
        for column in same
        if ("." in column or column in ALSO) and same[column].map(str).nunique() > 1
    ]
    runs = ", ".join(same["run_id"].astype(str)[:3])
    return (
        f"table: {len(same)} different runs of {what} ({runs}); they differ in "
        f"{', '.join(differing) or 'nothing that was configured'}: select one, e.g. "
        f"table[table['{(differing or ['run_id'])[0]}'] == ...], on a command line FIELD=VALUE"
    )
