"""How figures look: one style sheet, and for every policy one colour and marker for good."""

from __future__ import annotations

import textwrap
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import matplotlib.style
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

SHEET = Path(__file__).with_name("moex.mplstyle")
# Okabe & Ito 2008: distinct with any kind of colour vision. Black and grey are for bounds.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "v", "p")
LINES: tuple[Any, ...] = (
    *("-", (0, (5, 1.5)), (0, (1, 1))),
    *((0, (4, 1, 1, 1)), (0, (6, 1, 1, 1, 1, 1)), (0, (2.5, 1))),
)
"""A line style for each colour: marker and line tell policies apart without colour, too."""
MOST_INTERVALS = 12
"""Error bars that a line shows; of more, every second, third, ..."""
FOREIGN = ("P", "X", "*", "d", "<", ">")
"""Markers of policies from other packages: no pair of colour and marker is given twice in moex."""
NAMES = (
    *("lru", "lfu", "fifo", "lfru", "sieve", "arc"),
    *("lfu_aged", "s3fifo", "random", "mru", "lru_k", "slru"),
    *("two_q", "w_tinylfu", "gdsf", "lecar", "lhd", "mrs"),
    *("least_stale", "eam", "static", "learned", "window_lfu", "none"),
    "forecast",
)
ORACLES = ("belady", "belady_bypass", "oracle")
WIDE, COLUMN = 7.0, 3.5


def policy_style(name: str) -> dict[str, Any]:
    """Line style of a policy: fixed for moex's own, by the name's checksum for all others.

    Oracles are dashed grey and have no marker.
    """
    if name in ORACLES:
        dashes = (4, 2) if name == "belady" else (1, 1.5)
        return {"color": "0.45", "linestyle": (0, dashes), "marker": "", "zorder": 1}
    if name in NAMES:
        marker, colour = divmod(NAMES.index(name), len(COLOURS))
        return {"color": COLOURS[colour], "linestyle": LINES[colour], "marker": MARKERS[marker]}
    digest = crc32(name.encode())
    colour, marker = digest % len(COLOURS), digest // len(COLOURS) % len(FOREIGN)
    return {"color": COLOURS[colour], "linestyle": LINES[colour], "marker": FOREIGN[marker]}


def every(count: int) -> int:
    """Return every how many-th of so many intervals is drawn, for `errorevery`."""
    return max(1, -(-count // MOST_INTERVALS))


@contextmanager
def styled() -> Iterator[None]:
    """Draw in moex's style, and leave matplotlib's own settings alone."""
    with matplotlib.style.context(str(SHEET)):
        yield


class Sheet(Figure):
    """A figure that notebooks show as a picture, without pyplot."""

    def _repr_png_(self) -> bytes:
        picture = BytesIO()
        with styled():
            self.savefig(picture, dpi=110, metadata={"Software": None})
        return picture.getvalue()


def new(rows: int = 1, columns: int = 1, size: tuple[float, float] = (COLUMN, 2.4)) -> Any:
    """A figure and its axes [rows, columns], not known to pyplot."""
    figure = Sheet(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def caption(figure: Figure, text: str, table: pd.DataFrame | None = None) -> Figure:
    """Write a caption under the figure; with a table, what its runs have in common as well."""
    if table is not None:
        text = f"{text} {provenance(table)}"
    width = int(figure.get_figwidth() * 20.5)
    figure.supxlabel("\n".join(textwrap.wrap(text, width)), x=0.01, ha="left", fontsize=6.5)
    figure.set_label(text)
    return figure


def provenance(table: pd.DataFrame) -> str:
    """What a table's rows have in common in one sentence: model, workload, machine, commit."""

    def all_of(field: str) -> str:
        return ", ".join(str(value) for value in dict.fromkeys(table[field].dropna()))

    scored = (table["mode"] == "eval").all()
    parts = [f"Model {all_of('model')}", f"workload: {all_of('workload')}"]
    if scored:
        parts[1] = f"tasks: {_tasks(table)}"
    slots = sorted(set(table["slots"].dropna().astype(int)))
    if slots:
        parts.append(f"slots a layer {', '.join(map(str, slots))}")
    kinds = sorted({_kind(row) for row in table.itertuples()})
    parts.append(" and ".join(kinds))
    if (table["source"] == "live").any() and not scored:
        parts.append(all_of("machine"))
    commit = ", ".join(
        dict.fromkeys(
            f"{row.git or 'unknown'}{' with changes' if row.dirty else ''}"
            for row in table.itertuples()
        )
    )
    if table["smoke"].any():
        parts.append("SMOKE TEST, cut short")
    return "; ".join(parts) + f"; commit {commit}."


def _kind(row: Any) -> str:
    if row.mode == "eval":
        return (
            "accuracy only" if any(task["metric"] == "acc" for task in row.tasks) else "loss only"
        )
    if row.source == "sim":
        return "simulated"
    return "live, emulated link" if row.emulated else "live, measured"


def _tasks(table: pd.DataFrame) -> str:
    """Names and items of the tasks of evaluated rows, without subtasks."""
    rows = [row for tasks in table["tasks"] for row in tasks if "/" not in row["task"]]
    names = dict.fromkeys(row["task"] for row in rows)
    return f"{', '.join(names)}, {'/'.join(sorted({str(row['n']) for row in rows}))} items each"


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write NAME.png and NAME.pdf, caption in the metadata and no date: same figure, same file."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{kind}" for kind in ("png", "pdf")]
    text = str(figure.get_label())
    figure.savefig(paths[0], metadata={"Software": None, "Description": text})
    nothing = dict.fromkeys(("CreationDate", "Producer", "Creator"))
    figure.savefig(paths[1], metadata={"Subject": text, **nothing})
    return paths
