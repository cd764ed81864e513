"""Tables of accuracy, as experiments/*/*/README.md show them: DataFrame -> Markdown."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis import losses, tradeoffs
from analysis.tables import markdown


def accuracy(row: Any) -> str:
    """Percent and standard error."""
    return f"{row.acc:.1f} ± {row.stderr:.1f}"


def points(row: Any) -> str | None:
    """Points of accuracy over the exact model's on the same items; None: that is not known."""
    return None if pd.isna(row.apart) else f"{row.apart:+.2f} ± {row.apart_stderr:.2f}"


def quant_table(table: pd.DataFrame) -> str:
    """Bits of attention and experts: accuracy, and the paper's nats."""
    lines = [
        (
            row.attention, row.experts, f"{row.bits_per_weight:.3f}", accuracy(row), points(row),
            f"{row.paper:+.3f}",
        )
        for row in tradeoffs.quant_grid(table).itertuples()
    ]  # fmt: skip
    ours = ["attention", "experts", "bits a weight of experts", "accuracy (%)"]
    return markdown([*ours, "points over 16 bits", "nats more, Mixtral-8x7B (paper)"], lines)


def corm_sparsity(table: pd.DataFrame) -> str:
    """Points over the exact model by selector and share of neurons; accuracy where not known."""
    found = tradeoffs.scored(tradeoffs.sparsity_rows(table))
    found = found[found["sparsity"] != "none"]
    found = found.assign(
        share=found["sparsity.fraction"].astype(float),
        cell=[points(row) or accuracy(row) + " %" for row in found.itertuples()],
    )
    cells = found.pivot(index="sparsity", columns="share", values="cell")
    order = found.groupby("sparsity")["acc"].mean().sort_values(ascending=False).index
    lines = [(name, *cells.loc[name]) for name in order]
    return markdown(["neurons computed", *(f"{100 * share:g} %" for share in cells)], lines)


def nats(row: Any) -> str:
    """Nats/token more than unquantized, and their standard error."""
    return f"{row.more:+.4f} ± {row.stderr:.4f}"


def quant_sensitivity(table: pd.DataFrame) -> str:
    """Nats/token more, by bits and the one kind of weight that has them."""
    rows = losses.paired(losses.alone(table))
    found = {
        (row.bits, kind): nats(row)
        for kind in losses.KINDS.values()
        for row in rows[rows[kind] < 16].itertuples()
    }
    lines = [
        (bits, *(found.get((bits, kind)) for kind in losses.KINDS.values()))
        for bits in sorted(set(rows["bits"]), reverse=True)
    ]
    return markdown(["bits", *losses.KINDS], lines)


def quant_groups(table: pd.DataFrame) -> str:
    """Bits a weight and nats/token more, by bits and group size of experts."""
    rows = losses.paired(losses.grouped(table))
    rows = rows.sort_values(["bits", "group"], ascending=[False, True])
    lines = [
        (f"{row.bits} g{row.group}", f"{row.bits_per_weight:.3f}", nats(row))
        for row in rows.itertuples()
    ]
    return markdown(["format", "bits a weight (files)", "nats/token more"], lines)
