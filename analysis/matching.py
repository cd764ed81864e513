"""Finds rows of results that differ in nothing but what is compared."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml

ALIASES = {"cache": "policy", "prefetch": "prefetcher"}
GROUPS = {column: group for group, column in ALIASES.items()}
CONF = Path(__file__).parents[1] / "conf"
SETTINGS = (
    "source", "mode", "model", "runner", "policy", "prefetcher", "quant", "sparsity", "miss",
    "routing", "hardware", "link", "store", "slots", "pool", "rows", "workload", "smoke", "trace",
    "seed", "machine", "code",
)  # fmt: skip
"""Columns in which the rows of a pair are alike, besides the leaves of the configuration."""


def read_words(text: str) -> dict[str, str]:
    """Columns and values of `field=value,...`, with the options that they switch on."""
    words: dict[str, str] = {}
    for word in text.split(","):
        name, _, value = word.partition("=")
        words |= {ALIASES.get(name, name): value}
    switched_on: dict[str, str] = {}
    for column, value in words.items():
        path = CONF / GROUPS.get(column, column) / f"{value}.yaml"
        defaults = yaml.safe_load(path.read_text()).get("defaults", []) if path.is_file() else []
        for entry in defaults:
            for key, option in entry.items() if isinstance(entry, dict) else ():
                group = key.removeprefix("override").strip(" /")
                switched_on[ALIASES.get(group, group)] = option
    return switched_on | words


def setting_columns(table: pd.DataFrame, varied: set[str]) -> list[str]:
    """Columns that identify a configuration, less what is compared and its group's settings."""
    varied |= {name.rpartition(".")[2] for name in varied}
    varied |= {GROUPS[name] for name in varied & set(GROUPS)}
    names = [str(name) for name in table if "." in str(name) or name in SETTINGS]
    return [name for name in names if varied.isdisjoint({name, *name.split(".")})]


def row_key(rows: pd.DataFrame, columns: list[str]) -> pd.Series:
    """Return one text a row: equal where the rows are alike in these columns."""
    texts = map(repr, rows[columns].itertuples(index=False, name=None))
    return pd.Series(list(texts), rows.index, dtype=object)


def telling(rows: pd.DataFrame, columns: list[str]) -> list[str]:
    """Return the fewest of the columns, in their order, that tell the rows' settings apart."""
    found: list[str] = []
    for column in columns:
        apart = row_key(rows, found).nunique() if found else 1
        if row_key(rows, [*found, column]).nunique() > apart:
            found.append(column)
    return found


def select(table: pd.DataFrame, words: dict[str, str]) -> pd.DataFrame:
    """Return the rows with these values.

    Raises:
        ValueError: a column that the table lacks, or a value that no row has.
    """
    rows = table
    for column, value in words.items():
        if column not in table:
            raise ValueError(
                f"{column}={value}: the table has no column {column}; expected e.g. cache=lru"
            )
        rows = rows[rows[column].map(str) == value]
        if not len(rows):
            seen = ", ".join(sorted(set(table[column].map(str)))[:12])
            raise ValueError(f"{column}={value}: no such row; the results have {column} {seen}")
    return rows


def check_distinct(words: str, rows: pd.DataFrame, varied: set[str]) -> None:
    """Refuse words that leave open which of several rows belongs to a pair."""
    twins = rows[rows["pair"].duplicated(keep=False)]
    alike = twins[twins["pair"] == twins["pair"].iloc[0]] if len(twins) else twins
    for column in sorted(varied):
        if len(values := sorted(set(alike[column].map(str)))) > 1:
            raise ValueError(
                f"{words}: stands for {len(alike)} rows a pair, of {column} {', '.join(values)}; "
                f"expected one: name it on this side, too, e.g. {words},{column}={values[0]}"
            )


def no_pair(
    mine: str, other: str, metric: str, a: pd.DataFrame, b: pd.DataFrame, keys: list[str]
) -> str:
    """Name the fields that keep rows apart: alone, or of the pair that is most alike."""
    counts = f"{mine} against {other}: no pair among {len(a)} and {len(b)} rows with {metric}"
    if not len(a) or not len(b):
        return f"{counts}; expected a positive {metric} on both sides: try --metric hit_rate"
    least, values = keys, [""] * len(keys)
    for _, row in a[keys].iterrows():
        for _, against in b[keys].iterrows():
            differ = [key for key in keys if repr(row[key]) != repr(against[key])]
            if len(differ) < len(least):
                least, values = differ, [f"{row[k]} / {against[k]}" for k in differ]
    fields = ", ".join(f"{key} ({both})" for key, both in zip(least, values, strict=True))
    return (
        f"{counts}: the most alike differ in {fields}; expected rows that differ only in what is "
        f"compared: sweep both over the same cells, or name {least[0]} on both sides"
    )
