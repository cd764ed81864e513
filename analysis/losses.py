"""Figures of what fewer bits cost in loss, in nats/token.

`bits_table` draws rows of experiments/studies/quantization/accuracy.py. A row is a quantization of
one model on the same windows of text: bits of `attention` and of experts, `gate_up` (16: left
alone), `more` nats/token than unquantized and `stderr`, paired by document; `model`, `windows`. All
others draw result rows of mode=eval eval=loss.
"""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.published import TABLE_1, TABLE_1_SOURCE
from analysis.style import COLOURS, MARKERS, WIDE, caption, new
from analysis.tradeoffs import BITS, GROUPS, heat

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MORE = "nats/token over 16 bits"
KINDS = {"gate and up": "gate_up", "down": "down", "attention": "attention"}
STUDY = "python experiments/studies/quantization/accuracy.py --text FOLDER"
EXACT = "python run.py mode=eval eval=loss"


def bits_table(rows: pd.DataFrame) -> Figure:
    """Two grids of attention bits by expert bits in nats: ours, and the paper's table 1."""
    ours = _grid(rows, "more")
    if ours.notna().to_numpy().sum() < ours.size:
        raise ValueError(f"losses: not all of table 1's bits in {len(rows)} rows; try: {STUDY}")
    paper = ours.copy()
    for attention, experts in TABLE_1:
        paper.loc[attention, experts] = log(TABLE_1[attention, experts] / TABLE_1[16, 16])
    errors = _grid(rows, "stderr").to_numpy()
    figure, axes = new(1, 2, (WIDE, 2.7))
    notes = np.array([
        [f"{more:.3f}\n± {error:.3f}" for more, error in zip(*pair, strict=True)]
        for pair in zip(ours.to_numpy(), errors, strict=True)
    ])  # fmt: skip
    notes[0, 0] = "0"
    heat(axes[0][0], ours, notes, f"{_model(rows)} (here): {MORE}", ours.to_numpy().max())
    notes = np.array([[f"{more:.3f}" for more in line] for line in paper.to_numpy()])
    heat(axes[0][1], paper, notes, f"Mixtral-8x7B (printed): {MORE}", paper.to_numpy().max())
    text = (
        f"Left: HQQ, first 512 tokens of {rows['windows'].max()} held-out documents, ± standard "
        f"error, paired by document. Right: {TABLE_1_SOURCE}, logarithm of the perplexities' ratio."
        " Darkest: the worst cell of each grid. Two models and two texts: compare the patterns, "
        "never the sizes."
    )
    return caption(figure, text)


def _grid(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    grid = rows.pivot_table(index="attention", columns="gate_up", values=value)
    return grid.reindex(index=BITS, columns=BITS)


def scored_bits(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of eval=loss with quant=mixed or quant=only, with their bits and what these cost.

    More columns: bits of `attention`, `gate_up` and `down` (16: left alone), `group` (of the
    experts, or of the one kind), `more` nats/token than unquantized and `stderr`, paired by text
    (NaN: the unquantized model was not scored before), `text` (a checksum of all texts).
    """
    rows = table[(table["mode"] == "eval") & table["quant"].isin(["mixed", "only"])]
    rows = rows[rows["tasks"].map(_loss).astype(bool)]
    found = [_bits(row) | _cost(row["tasks"]) for row in rows.to_dict("records")]
    names = [*KINDS.values(), "group", "more", "stderr", "text"]
    return rows.join(pd.DataFrame(found, columns=names, index=rows.index))


def _loss(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    return next((task for task in tasks if task["metric"] == "nats_per_token"), {})


def _cost(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    names = {"more": "difference", "stderr": "difference_stderr", "text": "checksum"}
    return {name: _loss(tasks).get(field) for name, field in names.items()}


def _bits(row: dict[str, Any]) -> dict[str, int]:
    alone = row["quant"] == "only"
    given = (
        {row["quant.kind"]: row["quant.quantizer"]}
        if alone
        else {kind: row[f"quant.{kind}"] for kind in KINDS.values()}
    )
    chosen = {kind: each for kind, each in given.items() if isinstance(each, dict)}
    sizes = [each["group_size"] for kind, each in chosen.items() if alone or kind == "down"]
    bits = {kind: chosen[kind]["bits"] if kind in chosen else 16 for kind in KINDS.values()}
    return bits | {"group": sizes[0] if sizes else 0}


def alone(table: pd.DataFrame) -> pd.DataFrame:
    """Scored rows of experiment=quant_sensitivity: one `kind` of weight in few `bits`."""
    rows = scored_bits(table)
    rows = rows[rows["quant"] == "only"]
    each = rows[list(KINDS.values())]
    rows = rows.assign(bits=each.min(axis=1))
    return rows[rows["group"] == rows["bits"].map(GROUPS)]


def sensitivity_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of experiment=quant_sensitivity."""
    return table.loc[alone(table).index]


def grouped(table: pd.DataFrame) -> pd.DataFrame:
    """Scored rows of experiment=quant_groups: experts' `bits` in groups of several sizes."""
    rows = scored_bits(table)
    rows = rows[(rows["quant"] == "mixed") & (rows["attention"] == 16) & (rows["group"] > 0)]
    rows = rows[rows["gate_up"] == rows["down"]].assign(bits=rows["down"])
    return rows[rows.groupby("bits")["group"].transform("nunique") > 1]


def group_rows(table: pd.DataFrame) -> pd.DataFrame:
    """Rows of experiment=quant_groups."""
    return table.loc[grouped(table).index]


def paired(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, a line a quantization.

    Raises:
        ValueError: rows of several texts, or rows that are not paired with the unquantized model.
    """
    if rows["text"].nunique() > 1:
        raise ValueError(
            f"losses: {len(rows)} rows of {rows['text'].nunique()} sets of texts; expected one: "
            "give python -m analysis a folder of its own"
        )
    if rows["more"].isna().any():
        raise ValueError(
            f"losses: {rows['more'].isna().sum()} of {len(rows)} rows are not paired with the "
            f"unquantized model; try: {EXACT}, and then the study again with force=true"
        )
    return rows.drop_duplicates([*KINDS.values(), "group"])


def sensitivity(table: pd.DataFrame) -> Figure:
    """Loss against bits, a line for each kind of weight, all others in 16 bits."""
    rows = paired(alone(table))
    figure, axes = new(size=(4.2, 2.8))
    axis = axes[0][0]
    for number, (name, kind) in enumerate(KINDS.items()):
        line = rows[rows[kind] < 16].sort_values(kind, ascending=False)
        x = [BITS.index(bits) + 0.05 * (number - 1) for bits in line[kind]]
        axis.errorbar(x, line["more"], 1.96 * line["stderr"], label=name, **_look(number))
    axis.set_xticks(range(1, len(BITS)), BITS[1:])
    axis.set_xlabel("bits of this kind of weight, all others 16")
    axis.set_ylabel(MORE)
    axis.set_ylim(bottom=min(0.0, float((rows["more"] - 1.96 * rows["stderr"]).min())))
    axis.legend()
    text = (
        "HQQ in groups of 64, at 2 bits of 16; bars: 95 % intervals, paired by text, moved apart a "
        "little."
    )
    return caption(figure, text, rows)


def group_sizes(table: pd.DataFrame) -> Figure:
    """Loss against bits a weight, a point a group size, a line for each number of bits."""
    rows = paired(grouped(table))
    figure, axes = new(size=(4.2, 2.8))
    axis = axes[0][0]
    for number, (bits, line) in enumerate(rows.groupby("bits", sort=False)):
        line = line.sort_values("group")
        x, y, half = line["bits_per_weight"], line["more"], 1.96 * line["stderr"]
        axis.errorbar(x, y, half, label=f"{bits} bits", **_look(number))
        look = {"rotation": 90, "ha": "center", "fontsize": 7}
        for at, top, size in zip(x, y + half, line["group"], strict=True):
            axis.annotate(f"g{size}", (at, top), (0, 4), textcoords="offset points", **look)
    axis.set_xlabel("bits a weight of experts, scales and padding included")
    axis.set_ylabel(MORE)
    axis.margins(x=0.08, y=0.3)
    axis.set_ylim(bottom=min(0.0, float((rows["more"] - 1.96 * rows["stderr"]).min())))
    axis.legend()
    text = (
        "Experts by HQQ, 8-bit scales and zeros, all else 16 bits; bars: 95 % intervals, paired by "
        "text."
    )
    return caption(figure, text, rows)


def _look(number: int) -> dict[str, Any]:
    look: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "capsize": 2}
    return look | {"marker": MARKERS[number % len(MARKERS)]}


def _model(rows: pd.DataFrame) -> str:
    name = rows["model"].iloc[0]
    return "Bundled model" if name == "tiny" else str(name)
