"""Is A better than B? Paired by everything else, with an interval.

python -m analysis.compare prefetch=gate prefetch=none
python -m analysis.compare cache=lfu,pool=global cache=lru,pool=global --metric hit_rate
python -m analysis.compare f4317d31fa 0a05f5321f       # two runs: their rounds are the pairs
"""

from __future__ import annotations

import json
import sys
import warnings
from argparse import ArgumentParser
from pathlib import Path

import pandas as pd

from analysis.collect import collect
from analysis.paired import Ratio, paired_ratio

ALIASES = {"cache": "policy", "prefetch": "prefetcher"}


def compare(table: pd.DataFrame, mine: str, other: str, metric: str = "tokens_per_second") -> Ratio:
    """Return the ratio A / B of a metric over all pairs of rows that differ in nothing else.

    Args:
        table: from `collect`.
        mine: A, as `field=value,field=value`; fields are columns (`cache` means `policy`).
        other: B, likewise, of the same fields.
        metric: a column of positive numbers.

    Raises:
        ValueError: a field, value or metric that the table does not have, or fewer than two pairs.
    """
    if metric not in table:
        raise ValueError(f"metric={metric}: no such column; try tokens_per_second or hit_rate")
    first, second = _select(table, mine), _select(table, other)
    keys = _settings(table, {word.partition("=")[0] for word in f"{mine},{other}".split(",")})
    a, b = (rows.assign(pair=_key(rows, keys)) for rows in (first, second))
    pairs = a.merge(b, on="pair", suffixes=("_a", "_b"))
    values = [pairs[f"{metric}_{side}"] for side in "ab"]
    there = values[0].gt(0) & values[1].gt(0)
    if there.sum() < 2:
        raise ValueError(
            f"{mine} against {other}: {int(there.sum())} pairs of rows that differ in nothing else "
            f"and have a {metric}, of {len(first)} and {len(second)} rows; expected at least 2: "
            "sweep both over the same cells, e.g. python run.py -m 'seed=range(0,7)' "
            f"{mine.partition(',')[0].partition('=')[0]}=A,B"
        )
    return paired_ratio(list(values[0][there]), list(values[1][there]))


def compare_runs(folder: Path, mine: str, other: str) -> Ratio:
    """Return the ratio of decoding speeds of two live runs, round by round.

    Raises:
        ValueError: a run without a series, or fewer than two rounds.
    """
    speeds = [_speeds(folder / run / "series.jsonl") for run in (mine, other)]
    count = min(map(len, speeds))
    return paired_ratio(speeds[0][:count], speeds[1][:count])


def sentence(mine: str, other: str, metric: str, ratio: Ratio) -> str:
    """Say in one sentence whether there is a difference."""
    what = f"{metric}: {mine} / {other} = {ratio}"
    if ratio.low <= 1 <= ratio.high:
        return f"{what}: noise, the 95 % interval includes 1; more pairs would narrow it"
    return f"{what}: {mine} is {'higher' if ratio.median > 1 else 'lower'}"


def _settings(table: pd.DataFrame, varied: set[str]) -> list[str]:
    """Columns that identify a configuration: options and settings, less what is varied."""
    varied = varied | {name.rpartition(".")[2] for name in varied}
    varied |= {word for pair in ALIASES.items() if varied & set(pair) for word in pair}
    words = ["source", "mode", "model", "runner", "policy", "prefetcher", "quant", "sparsity"]
    words += ["miss", "hardware", "slots", "pool", "workload", "seed", "smoke", "trace"]
    names = [str(name) for name in table if "." in str(name) or name in words]
    return [name for name in names if varied.isdisjoint({name, *name.split(".")})]


def _key(rows: pd.DataFrame, keys: list[str]) -> pd.Series:
    return pd.Series(map(repr, rows[keys].itertuples(index=False, name=None)), rows.index)


def _select(table: pd.DataFrame, words: str) -> pd.DataFrame:
    rows = table
    for word in words.split(","):
        name, _, value = word.partition("=")
        column = ALIASES.get(name, name)
        if column not in table:
            raise ValueError(f"{word}: the table has no column {column}; expected e.g. cache=lru")
        rows = rows[rows[column].map(str) == value]
        if not len(rows):
            seen = ", ".join(sorted(set(table[column].map(str)))[:12])
            raise ValueError(f"{word}: no such row; the results have {column} {seen}")
    return rows


def _speeds(path: Path) -> list[float]:
    """Decoding speed of every round, in tokens/s."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; runs are compared by the rounds of mode=live")
    sums: dict[int, list[float]] = {}
    for text in path.read_text().splitlines():
        line = json.loads(text)
        if line["phase"] == "decode":
            total = sums.setdefault(line["round"], [0.0, 0.0])
            total[0] += line["tokens"]
            total[1] += line["seconds"]
    return [tokens / seconds for tokens, seconds in sums.values()]


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and print one sentence."""
    parser = ArgumentParser("python -m analysis.compare", description="Is A better than B?")
    parser.add_argument("mine", help="field=value,... or a run id")
    parser.add_argument("other", help="the same of what it is compared with")
    parser.add_argument("--metric", default="tokens_per_second")
    parser.add_argument("--results", default="results", type=Path)
    given = parser.parse_args(arguments)
    if "=" not in given.mine + given.other:
        ratio = compare_runs(given.results, given.mine, given.other)
        print(sentence(given.mine, given.other, "tokens_per_second", ratio))
        print("the runs were made one after the other, not in turns: drift looks like a difference")
        return
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        table = collect(given.results)
    for line in noted:
        print(f"analysis: {line.message}", file=sys.stderr)
    ratio = compare(table, given.mine, given.other, given.metric)
    print(sentence(given.mine, given.other, given.metric, ratio))


if __name__ == "__main__":
    try:
        main()
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"analysis: {error}")
