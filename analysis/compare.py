"""Is A better than B? Pairs of runs that differ in nothing else, with an interval.

python -m analysis.compare prefetch=gate prefetch=none
python -m analysis.compare cache=lfu,pool=global cache=lru,pool=global --metric hit_rate
python -m analysis.compare f4317d31fa 0a05f5321f       # two runs: their rounds are the pairs

Only repeats (seeds) are pooled: each source, hardware, number of slots and other setting gets a
line of its own.
"""

from __future__ import annotations

import json
import sys
import warnings
from argparse import ArgumentParser
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from analysis.collect import collect
from analysis.matching import (
    GROUPS,
    check_distinct,
    no_pair,
    read_words,
    row_key,
    select,
    setting_columns,
    telling,
)
from analysis.paired import Ratio, paired_ratio

if TYPE_CHECKING:
    import pandas as pd


class Compared(NamedTuple):
    """A against B under one setting.

    setting: the fields, with their values, that tell it from the other settings compared.
    ratio: A / B of the metric; of a single pair without an interval: its ends are the ratio.
    """

    setting: dict[str, str]
    ratio: Ratio


def compare(
    table: pd.DataFrame, mine: str, other: str, metric: str = "tokens_per_second"
) -> list[Compared]:
    """Return the ratio A / B of a metric for every setting, over its repeats.

    A word brings the options that its yaml switches on: rows of `prefetch=corm` are those with
    `sparsity=corm`, unless the sparsity is named, too.

    Args:
        table: from `collect`.
        mine: A, as `field=value,field=value`; fields are columns (`cache` means `policy`).
        other: B, likewise.
        metric: a column of positive numbers.

    Raises:
        ValueError: a field, value or metric that the table does not have, or no pair.
    """
    numbers = [str(name) for name in table.select_dtypes("number") if "." not in str(name)]
    if metric not in numbers:
        raise ValueError(
            f"metric={metric}: none of {len(table)} rows has a number of that name; expected one "
            "that they have (analysis/README.md#metrics): try --metric hit_rate"
        )
    sides = [read_words(mine), read_words(other)]
    keys = setting_columns(table, {name for words in sides for name in words})
    # A simulation gives the same row on every machine.
    table = table.assign(machine=table["machine"].where(table["source"] == "live", ""))
    a, b = (select(table, words).dropna(subset=metric) for words in sides)
    a, b = (rows[rows[metric] > 0] for rows in (a, b))
    a, b = (rows.assign(pair=row_key(rows, keys)) for rows in (a, b))
    for text, rows in ((mine, a), (other, b)):
        check_distinct(text, rows, {name for words in sides for name in words})
    pairs = a.merge(b[["pair", metric]], on="pair", suffixes=("", "_b"), validate="one_to_one")
    if not len(pairs):
        raise ValueError(no_pair(mine, other, metric, a, b, keys))
    setting = [key for key in keys if key != "seed"]
    varying = telling(pairs, setting)
    found = []
    for _, alike in pairs.groupby(row_key(pairs, setting), sort=False):
        first = {GROUPS.get(key, key): str(alike[key].iloc[0]) for key in varying}
        found.append(Compared(first, _ratio(list(alike[metric]), list(alike[f"{metric}_b"]))))
    return found


def compare_runs(
    folder: Path, mine: str, other: str, metric: str = "tokens_per_second"
) -> tuple[Ratio, dict[str, tuple[str, str]]]:
    """Return the ratio of a metric of two runs, and the settings in which they differ.

    The decoding speeds of live runs are compared round by round; any other number is one of the
    whole run, and gives a single pair.

    Raises:
        ValueError: no such run, or a run without that metric.
    """
    for run in (mine, other):
        if not (folder / run / "result.json").is_file():
            raise ValueError(
                f"{folder / run}: no such run (no result.json); expected a run id, a folder's name "
                f"in {folder}: try python -m analysis.compare prefetch=gate prefetch=none"
            )
    table = collect(folder, [mine, other]).set_index("run_id", drop=False)
    columns = [name for name in setting_columns(table, set()) if name != "machine"]
    sides = [table.loc[run] for run in (mine, other)]
    differ = {
        name: (str(sides[0][name]), str(sides[1][name]))
        for name in columns
        if repr(sides[0][name]) != repr(sides[1][name])
    }
    series = [folder / run / "series.jsonl" for run in (mine, other)]
    if metric == "tokens_per_second" and all(path.is_file() for path in series):
        speeds = [_speeds(path) for path in series]
        count = min(map(len, speeds))
        return _ratio(speeds[0][:count], speeds[1][:count]), differ
    values = [side.get(metric) for side in sides]
    for run, value in zip((mine, other), values, strict=True):
        if not isinstance(value, int | float) or not value > 0:
            raise ValueError(
                f"metric={metric}: run {run} has none ({value}); expected a positive number: "
                "try --metric hit_rate or --metric bytes_moved"
            )
    return _ratio([values[0]], [values[1]]), differ


def sentence(what: str, ratio: Ratio) -> str:
    """Say in one sentence whether there is a difference.

    Args:
        what: e.g. "hit_rate: lru / lfu".
        ratio: of that.
    """
    if ratio.pairs == 1:
        return f"{what} = {ratio.median:.3f}x, 1 pair: no interval"
    if ratio.low <= 1 <= ratio.high:
        return f"{what} = {ratio}: noise, the 95 % interval includes 1; more pairs would narrow it"
    return f"{what} = {ratio}: {'higher' if ratio.median > 1 else 'lower'}"


def _ratio(mine: list[float], other: list[float]) -> Ratio:
    if len(mine) == 1:
        return Ratio(mine[0] / other[0], mine[0] / other[0], mine[0] / other[0], 1)
    return paired_ratio(mine, other)


def _speeds(path: Path) -> list[float]:
    """Decoding speed of every round, in tokens/s."""
    sums: dict[int, list[float]] = {}
    for text in path.read_text().splitlines():
        line = json.loads(text)
        if line["phase"] == "decode":
            total = sums.setdefault(line["round"], [0.0, 0.0])
            total[0] += line["tokens"]
            total[1] += line["seconds"]
    return [tokens / seconds for tokens, seconds in sums.values()]


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and print a sentence for every setting."""
    parser = ArgumentParser("python -m analysis.compare", description="Is A better than B?")
    parser.add_argument("mine", help="field=value,... or a run id")
    parser.add_argument("other", help="the same of what it is compared with")
    parser.add_argument("--metric", default="tokens_per_second", help="a column of the result row")
    parser.add_argument("--results", default="results", type=Path)
    given = parser.parse_args(arguments)
    what = f"{given.metric}: {given.mine} / {given.other}"
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        if "=" not in given.mine + given.other:
            ratio, differ = compare_runs(given.results, given.mine, given.other, given.metric)
            print(sentence(what, ratio))
            apart = ", ".join(f"{name} ({a} / {b})" for name, (a, b) in differ.items())
            print(f"they differ in: {apart or 'nothing'}")
            if ratio.pairs > 1:
                print("made one after the other, not in turns: drift looks like a difference")
            return
        table = collect(given.results)
        found = compare(table, given.mine, given.other, given.metric)
    for line in noted:
        print(f"analysis: {line.message}", file=sys.stderr)
    for setting, ratio in found:
        where = " ".join(f"{name}={value}" for name, value in setting.items())
        print(f"{where}: {sentence(what, ratio)}" if where else sentence(what, ratio))


if __name__ == "__main__":
    try:
        main()
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"analysis: {error}")
