"""Rows and columns as a command line names them: shared by `analysis.table` and `analysis.plot`."""

from __future__ import annotations

import difflib
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis.collect import collect
from analysis.matching import ALIASES, setting_columns, telling

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Sequence

SHORT = ALIASES | {"memory.slots": "slots", "memory.pool": "pool"}
"""Names of overrides whose column of the row is called otherwise."""


def add_arguments(parser: ArgumentParser) -> None:
    """Add what both commands are given: a folder, and which of its rows."""
    parser.add_argument(
        "words", nargs="*", help="folder of results (default: results), and field=value,... of rows"
    )
    parser.add_argument("--sweep", help="only the rows of this sweep, as its last line names it")


def read(given: Namespace) -> pd.DataFrame:
    """Return the rows that the words and `--sweep` ask for; what is mixed in them goes to stderr.

    Raises:
        ValueError: two folders, an unknown sweep or field, or a value that no row has.
        FileNotFoundError: no results.
    """
    folders = [word for word in given.words if "=" not in word]
    if len(folders) > 1:
        raise ValueError(
            f"{' '.join(folders)}: two folders; expected one, and field=value to select rows; "
            f"try {folders[0]} cache=lru"
        )
    folder = Path(folders[0] if folders else "results")
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        table = collect(folder, _of_sweep(folder, given.sweep) if given.sweep else ())
    for line in noted:
        print(f"analysis: {line.message}", file=sys.stderr)
    for word in given.words:
        name, equals, values = word.partition("=")
        if equals:
            table = _select(table, column(table, name), values)
    return table


def _of_sweep(folder: Path, sweep: str) -> list[str]:
    """The run ids of a sweep."""
    listed = folder / ".sweeps" / sweep
    if not listed.is_file():
        known = sorted(path.name for path in listed.parent.glob("*"))
        raise ValueError(
            f"--sweep {sweep}: no such sweep in {folder}; expected "
            f"{'one of ' + ', '.join(known) if known else 'a folder that holds one'}; "
            "the last line of python run.py -m ... names it"
        )
    return [line.partition("\t")[0] for line in listed.read_text().splitlines()]


def column(table: pd.DataFrame, name: str) -> str:
    """Return the column that a key or field stands for: `cache` is `policy`.

    Raises:
        ValueError: the rows have no such column.
    """
    found = SHORT.get(name, name)
    if found in table and not table[found].isna().all():
        return found
    names = [str(each) for each in table if not table[each].isna().all()]
    near = difflib.get_close_matches(name, [*SHORT, *names], n=1)
    hint = near[0] if near else "hit_rate"
    why = "is null in every row" if found in table else "is in no row"
    raise ValueError(
        f"{name}: {why} of these {len(table)}; expected a field or a key that they have "
        f"(analysis/README.md#metrics); try {hint}"
    )


def number(table: pd.DataFrame, name: str) -> str:
    """Return the column of a field, which has to be one of numbers.

    Raises:
        ValueError: there is none, or it holds something else.
    """
    found = column(table, name)
    if not pd.api.types.is_numeric_dtype(table[found].dropna().infer_objects()):
        raise ValueError(
            f"{name}: holds {table[found].dropna().iloc[0]!r}; expected a field of numbers; "
            "try tokens_per_second, hit_rate or bytes_moved"
        )
    return found


def swept(table: pd.DataFrame, given: Sequence[str] = ()) -> list[str]:
    """Return the fewest columns, besides those given, that tell the settings of rows apart."""
    names = [name for name in setting_columns(table, set()) if name not in ("seed", "machine")]
    names = [name for name in names if not name.endswith(("._target_", ".name"))]
    return [name for name in telling(table, [*given, *names]) if name not in given]


def _select(table: pd.DataFrame, name: str, values: str) -> pd.DataFrame:
    wanted = values.split(",")
    texts = table[name].map(_text)
    for value in wanted:
        if not (texts == value).any():
            seen = ", ".join(sorted(set(texts))[:12])
            raise ValueError(f"{name}={value}: no such row; the results have {name} {seen}")
    return table[texts.isin(wanted)]


def _text(value: object) -> str:
    """A value as it is typed: whole numbers without a point."""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value)) if whole else str(value)  # type: ignore[call-overload]
