"""Figures of what is given for what: accuracy, bits, neurons, bytes, seconds."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.collect import need
from analysis.published import TABLE_1, TABLE_1_SOURCE
from analysis.style import COLOURS, MARKERS, WIDE, caption, new

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BITS = (16, 4, 3, 2)
GROUPS = {16: 0, 4: 64, 3: 64, 2: 16}
"""Group sizes of table 1: so many weights share a scale."""
LOST = 10
"""Points of accuracy that the darkest cell has lost: smaller losses look small."""
ACCURACY = "accuracy, mean of tasks (%)"


def accuracy(tasks: list[dict[str, Any]]) -> tuple[float, float, float | None, float | None]:
    """Mean accuracy over tasks and its standard error, in percent; change from the exact model.

    The last two are None unless the exact model was evaluated on the same items before.
    """
    rows = [row for row in tasks if row["metric"] == "acc" and "/" not in row["task"]]

    def mean(name: str, error: str) -> tuple[float, float]:
        spread = sum((row[error] or 0.0) ** 2 for row in rows) ** 0.5
        return 100 * sum(row[name] for row in rows) / len(rows), 100 * spread / len(rows)

    paired = all("difference" in row for row in rows)
    apart = mean("difference", "difference_stderr") if paired else (None, None)
    return *mean("value", "stderr"), *apart


def scored(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows with `acc`, `stderr`, `apart` and `apart_stderr` in percent, once an accuracy key."""
    rows = rows[rows["tasks"].map(_has_accuracy).astype(bool)].drop_duplicates("accuracy_key")
    found = [accuracy(tasks) for tasks in rows["tasks"]]
    names = ["acc", "stderr", "apart", "apart_stderr"]
    return rows.join(pd.DataFrame(found, columns=names, index=rows.index))


def evaluated(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of mode=eval with accuracies."""
    return table[(table["mode"] == "eval") & table["tasks"].map(_has_accuracy).astype(bool)]


def _has_accuracy(tasks: list[dict[str, Any]]) -> bool:
    return any(row["metric"] == "acc" for row in tasks)


def sparsity_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of experiment=corm_sparsity, and the exact model's."""
    rows = evaluated(table)
    rows = rows[rows["quant"] == "none"]
    return rows if (rows["sparsity"] != "none").any() else rows[:0]


def sparsity(table: pd.DataFrame) -> Figure:
    """Accuracy against the share of neurons computed, for every way of choosing them."""
    rows = sparsity_rows(table)
    need(rows, ["sparsity.fraction"], "python run.py experiment=corm_sparsity")
    found = scored(rows).sort_values("sparsity.fraction")
    figure, axes = new(size=(WIDE, 2.8))
    axis = axes[0][0]
    for exact in found[found["sparsity"] == "none"]["acc"].head(1):
        axis.axhline(exact, color="0.45", linestyle=(0, (1, 1.5)), label="all neurons")
    found = found[found["sparsity"] != "none"]
    for number, (name, line) in enumerate(found.groupby("sparsity", sort=True)):
        bound = name == "oracle"
        look: dict[str, Any] = {"color": "0.45" if bound else COLOURS[number % len(COLOURS)]}
        look |= {"linestyle": "--" if bound else "-", "marker": MARKERS[number % len(MARKERS)]}
        x, half = 100 * line["sparsity.fraction"].astype(float), 1.96 * line["stderr"]
        x += 0.3 * number  # so that bars do not hide each other
        axis.errorbar(x, line["acc"], yerr=half, capsize=2, label=f"sparsity={name}", **look)
    axis.set_xlabel("neurons computed of every expert (%)")
    axis.set_ylabel(ACCURACY)
    axis.legend(loc="lower right")
    text = (
        "Bars: 95 % intervals of the items, moved apart a little; all lines share the items, so "
        "that differences are surer than bars. Masks also in the prompt. oracle knows what "
        "every neuron contributes; corm is CORM-like, our design."
    )
    return caption(figure, text, found)


def quant_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of experiment=quant_table: attention and experts of bits of their own."""
    rows = evaluated(table)
    rows = rows[rows["quant"] == "mixed"]
    if not len(rows):
        return rows
    down, gate_up = rows["quant.down"].map(str), rows["quant.gate_up"].map(str)
    rows = rows[(down == gate_up) | (down == "${quant.gate_up}")]
    return rows[rows["quant.gate_up"].map(_as_table_1) & rows["quant.attention"].map(_as_table_1)]


def _as_table_1(quantizer: Any) -> bool:
    """Whether a quantizer has table 1's group size for its bits: quant_groups has others."""
    return not isinstance(quantizer, dict) or (
        quantizer["group_size"] == GROUPS.get(quantizer["bits"])
    )


def quant_grid(table: pd.DataFrame) -> pd.DataFrame:
    """One line a cell of table 1: `attention`, `experts`, ours in percent, the paper's in nats."""
    rows = quant_rows(table)
    need(rows, ["tasks"], "python run.py experiment=quant_table")
    found = scored(rows)
    bits = {
        name: [entry["bits"] if isinstance(entry, dict) else 16 for entry in found[f"quant.{key}"]]
        for name, key in (("attention", "attention"), ("experts", "gate_up"))
    }
    found = found.copy().assign(**bits)  # copied: in one piece, of many
    paper = [
        log(TABLE_1[pair] / TABLE_1[16, 16])
        for pair in zip(found["attention"], found["experts"], strict=True)
    ]
    return found.assign(paper=paper).sort_values(["attention", "experts"], ascending=False)


def quant_table(table: pd.DataFrame) -> Figure:
    """Two grids of attention bits by expert bits: ours, and the paper's table 1."""
    found = quant_grid(table)
    figure, axes = new(1, 2, (WIDE, 2.7))
    titles = (
        "bundled model (here): accuracy (%)",
        "Mixtral-8x7B (printed): nats/token over 16 bits",
    )
    grids = {
        name: found.pivot_table(index="attention", columns="experts", values=name).reindex(
            index=BITS, columns=BITS
        )
        for name in ("acc", "stderr", "paper")
    }
    acc, errors, paper = (grid.to_numpy() for grid in grids.values())
    notes = np.array([f"{v:.1f}\n± {e:.1f}" for v, e in zip(acc.flat, errors.flat, strict=True)])
    lost = np.nanmax(acc) - grids["acc"]
    heat(axes[0][0], lost, notes.reshape(acc.shape), titles[0], LOST)
    notes = np.array([f"{nats:.3f}" for nats in paper.flat])
    heat(axes[0][1], grids["paper"], notes.reshape(paper.shape), titles[1], paper[-1, -1])
    text = (
        f"Left: HQQ, mean of the tasks ± standard error. Right: {TABLE_1_SOURCE}, logarithm of the "
        f"perplexities' ratio. Darkest: {LOST} points below the best; the worst cell. Two "
        "measures of two models: never compare their sizes."
    )
    return caption(figure, text, found)


def heat(axis: Any, lost: pd.DataFrame, notes: np.ndarray, title: str, most: float) -> None:
    """A grid of attention bits by expert bits, darkest where `most` is lost, with notes."""
    axis.imshow(lost, cmap="Blues", aspect="auto", vmin=0, vmax=most)
    for (y, x), value in np.ndenumerate(lost.to_numpy()):
        if not np.isnan(value):
            colour = "white" if value > 0.6 * most else "black"
            axis.text(x, y, notes[y, x], ha="center", va="center", fontsize=7, color=colour)
    axis.set_xticks(range(len(BITS)), BITS)
    axis.set_yticks(range(len(BITS)), BITS)
    axis.set_xlabel("bits of experts")
    axis.set_ylabel("bits of attention")
    axis.set_title(title)
    axis.grid(visible=False)
