"""A table of results to paste into a paper, a page or a spreadsheet.

python -m analysis.table                                   # results/: a line a setting
python -m analysis.table results hardware=t4 --rows cache --cols slots --show hit_rate
python -m analysis.table --rows quant --show tokens_per_second,mb_per_token,moex_copy --format latex

Keys are fields of the row or keys of the configuration (`cache`, `prefetch.depth`). Seeds are
repeats; rows that differ in anything else that the table does not show are refused.
"""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from math import floor, log10
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from analysis.cells import cells
from analysis.query import add_arguments, column, number, read, swept
from analysis.tables import markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SHOWN = ("tokens_per_second", "hit_rate", "effective_hit_rate", "mb_per_token")
"""Fields that a table shows unless told otherwise, where rows have them; then accuracies."""
ESCAPED = str.maketrans(
    {
        "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    }
)  # fmt: skip
ERRORS = "± of repeats: 95 % interval of the mean over seeds; of one live speed: half the "
ERRORS += "interquartile range over rounds; of one accuracy: standard error"


class Cell(NamedTuple):
    """A number, and how far it may be off; None: not known, or exact."""

    value: float
    error: float | None

    def text(self, decimals: int, sign: str = " ± ") -> str:
        """The number with its error, in so many decimals."""
        value = f"{self.value:.{decimals}f}"
        return value if self.error is None else f"{value}{sign}{self.error:.{decimals}f}"


class Table(NamedTuple):
    """Cells by row and column.

    keys: names of the row keys. rows: their values. columns: (field, value of the column key) each.
    cells: by row, a cell or None a column. across: name of the column key, if there is one.
    """

    keys: list[str]
    rows: list[tuple[str, ...]]
    columns: list[tuple[str, str]]
    cells: list[list[Cell | None]]
    across: str = ""


def tabulate(found: pd.DataFrame, rows: Sequence[str], columns: str, show: Sequence[str]) -> Table:
    """Return the table of some fields, by keys of the rows and, if it is not "", of the columns.

    Raises:
        ValueError: a key or field that no row has, or rows that differ in what is not shown.
    """
    keys = [column(found, name) for name in (*rows, *([columns] if columns else ()))]
    shown = [number(found, name) for name in show]
    found = found.assign(**{key: found[key].map(_plain) for key in keys})
    values: dict[tuple[str, ...], dict[tuple[str, str], Cell]] = {}
    for field in shown:
        for line in cells(found.dropna(subset=field), keys, field).itertuples(index=False):
            names = tuple(map(str, line[: len(keys)]))
            middle, error = line.middle, None
            if line.high > line.low:
                middle, error = (line.low + line.high) / 2, (line.high - line.low) / 2
            row, over = (names[:-1], names[-1]) if columns else (names, "")
            values.setdefault(row, {})[field, over] = Cell(middle, error)
    across = sorted({over for row in values.values() for _, over in row}, key=_order)
    heads = [(field, over) for field in shown for over in across]
    lines = sorted(values, key=lambda row: [*map(_order, row)])
    grid = [[values[row].get(head) for head in heads] for row in lines]
    return Table(list(rows), lines, heads, grid, columns)


def _plain(value: object) -> str:
    """A value as it is typed on the command line."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_plain, value))}]"
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _order(text: str) -> tuple[int, float, str]:
    """Numbers by size, before words."""
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text


def _decimals(table: Table) -> dict[str, int]:
    """By field: two digits of its errors, or four of its values where none has an error."""
    found = {}
    for field in {field for field, _ in table.columns}:
        at = [n for n, (name, _) in enumerate(table.columns) if name == field]
        here = [cell for row in table.cells for n in at if (cell := row[n])]
        errors = [cell.error for cell in here if cell.error]
        sizes = errors or [abs(cell.value) for cell in here if cell.value] or [1.0]
        whole = not errors and all(float(cell.value).is_integer() for cell in here)
        found[field] = 0 if whole else max(0, (1 if errors else 3) - floor(log10(median(sizes))))
    return found


def _heads(table: Table) -> list[str]:
    """A name a column: the field, where there are several, and the column key's value."""
    several = len({field for field, _ in table.columns}) > 1
    if not table.across:
        return [field for field, _ in table.columns]
    return [
        f"{field}, {table.across}={over}" if several else f"{table.across}={over}"
        for field, over in table.columns
    ]


def as_markdown(table: Table) -> str:
    """A Markdown table, with a line that says what the errors are."""
    texts = _texts(table, " ± ")
    lines = [[*row, *cells] for row, cells in zip(table.rows, texts, strict=True)]
    return markdown([*table.keys, *_heads(table)], lines) + _note(table, "\n")


def as_csv(table: Table) -> str:
    """Comma-separated: all digits, and the error of each column in one of its own."""
    heads = [name for head in _heads(table) for name in (head, f"{head} error")]
    lines = [
        [*row, *(each for cell in cells for each in (cell or (None, None)))]
        for row, cells in zip(table.rows, table.cells, strict=True)
    ]
    frame = pd.DataFrame(lines, columns=[*table.keys, *heads])
    text: str = frame.dropna(axis="columns", how="all").to_csv(index=False)
    return text


def as_latex(table: Table) -> str:
    """A booktabs tabular (needs the package booktabs): escaped, errors as plus-minus."""
    fields = list(dict.fromkeys(field for field, _ in table.columns))
    each = len(table.columns) // max(len(fields), 1)
    head = [_escape(name) for name in table.keys]
    above, rules = [""] * len(head), ""
    if table.across and len(fields) > 1:
        for n, field in enumerate(fields):
            above.append(rf"\multicolumn{{{each}}}{{c}}{{{_escape(field)}}}")
            first = len(head) + n * each + 1
            rules += rf"\cmidrule(lr){{{first}-{first + each - 1}}}"
        names = [f"{table.across}={over}" for _, over in table.columns]
    else:
        above, names = [], _heads(table)
    head += [_escape(name) for name in names]
    lines = [_note(table, "% ").strip(), r"\begin{tabular}{" + "l" * len(table.keys)]
    lines[-1] += "r" * len(table.columns) + "}"
    lines += [r"\toprule", *([" & ".join(above) + r" \\ " + rules] if above else [])]
    lines += [" & ".join(head) + r" \\", r"\midrule"]
    for row, cell in zip(table.rows, _texts(table, r" \pm "), strict=True):
        texts = [f"${text}$" if text else "--" for text in cell]
        lines.append(" & ".join([*map(_escape, row), *texts]) + r" \\")
    return "\n".join([*filter(None, lines), r"\bottomrule", r"\end{tabular}"]) + "\n"


def _texts(table: Table, sign: str) -> list[list[str]]:
    decimals = _decimals(table)
    return [
        [
            cell.text(decimals[field], sign) if cell else ""
            for cell, (field, _) in zip(row, table.columns, strict=True)
        ]
        for row in table.cells
    ]


def _note(table: Table, before: str) -> str:
    unsure = any(cell and cell.error is not None for row in table.cells for cell in row)
    return f"{before}{ERRORS}.\n" if unsure else ""


def _escape(text: str) -> str:
    return text.translate(ESCAPED)


FORMATS: dict[str, Callable[[Table], str]] = {
    "md": as_markdown,
    "csv": as_csv,
    "latex": as_latex,
}


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and print the table."""
    parser = ArgumentParser("python -m analysis.table", description="A table of results.")
    add_arguments(parser)
    parser.add_argument("--rows", help="keys of the rows; default: what tells the results apart")
    parser.add_argument("--cols", default="", help="key of the columns")
    parser.add_argument("--show", help=f"fields; default: {','.join(SHOWN)} and accuracies")
    parser.add_argument("--format", choices=FORMATS, default="md")
    given = parser.parse_intermixed_args(arguments)
    found = read(given)
    if given.show:
        show = given.show.split(",")
    else:
        accuracies = [str(name).removesuffix("_stderr") for name in found if _is_error(str(name))]
        show = [n for n in (*SHOWN, *accuracies) if n in found and found[n].notna().any()]
    rows = given.rows.split(",") if given.rows else swept(found, [given.cols] * bool(given.cols))
    table = tabulate(found, rows or ["run_id"], given.cols, show)
    print(FORMATS[given.format](table), end="")


def _is_error(name: str) -> bool:
    return name.endswith("_stderr") and "/" not in name


if __name__ == "__main__":
    try:
        main()
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"analysis: {error}")
