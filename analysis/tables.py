"""Tables of the studies, as experiments/*/*/README.md show them: DataFrame -> Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from analysis import choices, figures, live, patterns, speeds
from analysis.cells import cells
from analysis.published import TABLE_2, TABLE_2_ROWS
from analysis.routing import lookahead_recall
from analysis.style import ORACLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence


def markdown(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table; None and NaN are left empty."""
    rows = [list(head), ["---"] * len(head)]
    rows += [["" if pd.isna(cell) else str(cell) for cell in line] for line in lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def interval(row: object, digits: int = 1) -> str:
    """Middle and interval of a cell; without repeats, the middle alone."""
    middle, low, high = (getattr(row, name) for name in ("middle", "low", "high"))
    if high <= low:
        return f"{middle:.{digits}f}"
    return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def grid(
    found: pd.DataFrame, index: str, columns: str, corner: str, show: Callable[[float], str]
) -> str:
    """Middles of cells, a row a value of `index` in the order found, a column one of `columns`."""
    table = found.pivot(index=index, columns=columns, values="middle")
    table = table.reindex(list(dict.fromkeys(found[index])))
    lines = [
        [name, *(None if pd.isna(v) else show(v) for v in table.loc[name])] for name in table.index
    ]
    return markdown([corner, *(f"{name:g}" for name in table.columns)], lines)


def rate(value: float) -> str:
    """A share with three digits, as .585."""
    return f"{value:.3f}".removeprefix("0")


def speed(value: float) -> str:
    """Tokens a second."""
    return f"{value:.1f}"


def fig2a(table: pd.DataFrame) -> str:
    """Hit rate by slots: LRU, and what the best eviction would give."""
    found = cells(figures.bounded_lru(table), ["policy", "slots"], "hit_rate")
    order = {"lru": 0, "belady": 1, "belady_bypass": 2}
    found = found.sort_values("policy", key=lambda names: names.map(order), kind="stable")
    return grid(found, "policy", "slots", "hit rate, slots", rate)


def fig2b(table: pd.DataFrame) -> str:
    """Recall by distance and number fetched."""
    found = lookahead_recall(patterns.replayed(patterns.recall_rows(table)))
    found = found[found["fetched"] <= 4].groupby(["ahead", "fetched"])["recall"].mean()
    found = found.rename("middle").reset_index()
    found["ahead"] = found["ahead"].map(lambda n: f"{n} layer{'s' * (n > 1)} ahead")
    return grid(found, "ahead", "fetched", "recall, experts fetched", rate)


def tab2_simulated(table: pd.DataFrame) -> str:
    """The paper's rows beside ours, and how far off."""
    lines, seen = [], None
    for row in speeds.table_2(table).itertuples():
        first = (speeds.PRETTY[row.gpu], row.slots) if row.gpu != seen else ("", "")
        seen, there = row.gpu, not pd.isna(row.simulated)
        off = f"{row.off:+.0%}".replace("%", " %") if there else None
        lines.append(
            (*first, row.row, f"{row.paper:.3f}", f"{row.simulated:.3f}" if there else "-", off)
        )
    return markdown(["GPU", "slots", "row", "paper", "simulated", "off"], lines)


def tab2_live(table: pd.DataFrame) -> str:
    """Our rows of table 2 and their ratio to naive, beside the ratios of the paper's four GPUs."""
    found = live.ablation_cells(table)
    middle = dict(zip(found["what"], found["middle"], strict=True))
    naive = middle.get(live.ROWS[5])
    lines = []
    for row in found.itertuples():
        column = TABLE_2_ROWS.index(row.what) if row.what in TABLE_2_ROWS else None
        ratios = (
            sorted(four[column] / four[3] for four in TABLE_2.values())
            if column is not None
            else None
        )
        paper = f"{ratios[0]:.2f} to {ratios[-1]:.2f}" if ratios else None
        over = f"{row.middle / naive:.2f}" if naive else None
        lines.append((row.what, interval(row), over, paper))
    return markdown(
        ["row", "tokens/s [95 %]", "over naive", "paper, over naive (four GPUs)"], lines
    )


def slots_speed(table: pd.DataFrame) -> str:
    """Simulated tokens/s by slots."""
    rows = speeds.slots_speed_rows(table)
    found = cells(rows, ["policy", "prefetcher", "slots"], "tokens_per_second")
    found["what"] = found["policy"] + ", prefetch=" + found["prefetcher"]
    order = {"none": 0, "gate": 1, "oracle": 2}
    found = found.assign(b=found["prefetcher"].map(order)).sort_values(
        ["policy", "b"], ascending=[False, True], kind="stable"
    )
    return grid(found, "what", "slots", "tokens/s, slots a layer", speed)


def slots_speed_live(table: pd.DataFrame) -> str:
    """Measured beside simulated by slots."""
    lines = [
        (
            f"prefetch={row.prefetcher}", row.slots,
            f"{row.measured:.1f} [{row.low:.1f}, {row.high:.1f}]", f"{row.simulated:.1f}",
            "sets the costs" if row.sets_costs else f"{row.off:+.1%}".replace("%", " %"),
            f"{row.stall:.0%}".replace("%", " %"), f"{row.simulated_stall:.0%}".replace("%", " %"),
        )
        for row in live.forecast(table).itertuples()
    ]  # fmt: skip
    head = ["LRU", "slots", "measured tokens/s [95 %]", "simulated", "off", "waiting", "simulated"]
    return markdown(head, lines)


def buffers(table: pd.DataFrame) -> str:
    """Tokens/s by link, depth and staging slots."""
    rows = speeds.buffers_rows(table)
    rows = rows.assign(staging=rows["memory.staging"].astype(int))
    rows["what"] = [
        f"{link / 1e9:.3g} GB/s, {depth:.0f} ahead"
        for link, depth in zip(
            rows["hardware.link_bytes_per_s"], rows["prefetch.depth"], strict=True
        )
    ]
    found = cells(rows, ["what", "staging"], "tokens_per_second")
    return grid(found, "what", "staging", "tokens/s, staging slots", speed)


def oracle_ladder(table: pd.DataFrame) -> str:
    """Tokens/s of every rung, and the most that the lower bound on time leaves."""
    found, most = speeds.rungs(table), speeds.most_tokens_per_second(table)
    names = [name for name, *_ in speeds.RUNGS]
    lines = []
    for slots, here in found.groupby("slots"):
        by = here.set_index("rung")
        cell = [
            f"{by.loc[name].middle:.1f}" + (f" ({by.loc[name].policy})" if "best" in name else "")
            if name in by.index else None
            for name in names
        ]  # fmt: skip
        lines.append((int(slots), *cell, f"{most[slots]:.1f}"))
    return markdown(["slots", *names, "most, by the lower bound on time"], lines)


def prefetch_value(table: pd.DataFrame) -> str:
    """Gain over no prefetching by link, precision and recall."""
    found = choices.prefetch_gains(table)
    found["what"] = [
        f"{link:g}, {precision:g}"
        for link, precision in zip(found["load"], found["precision"], strict=True)
    ]
    return grid(found, "what", "recall", "load / layer, precision; recall", lambda v: f"{v:+.1f} %")


def host_fetch(rows: pd.DataFrame) -> str:
    """Milliseconds per token, and hybrid over the better of the others."""
    found = choices.host_cells(rows)
    lines = []
    for (slots, ratio), here in found.groupby(["slots", "ratio"]):
        by = here.set_index("miss")
        best = by["middle"].drop("hybrid", errors="ignore").min()
        over = by["middle"].get("hybrid", float("nan")) / best
        cell = [interval(by.loc[name], 2) if name in by.index else None for name in choices.WAYS]
        lines.append((int(slots), f"{ratio:g}", *cell, f"{over:.3f}"))
    return markdown(["slots", "load / host", *choices.WAYS, "hybrid / best"], lines)


def pareto(table: pd.DataFrame) -> str:
    """Every point, and whether another one is at least as good in everything."""
    lines = [
        (
            row.quant, int(row.slots), f"{row.held:.1f}", interval(row),
            f"{row.acc:.1f} ± {row.stderr:.1f}", "yes" if row.front else "no",
        )
        for row in choices.pareto_points(table).itertuples()
    ]  # fmt: skip
    head = ["quant", "slots", "MB on the device", "tokens/s [95 %]", "accuracy (%)", "on the front"]
    return markdown(head, lines)


def policy_zoo(table: pd.DataFrame, pool: str = "layer") -> str:
    """Hit rates: bounds, the best causal policies by their mean, and the baselines."""
    rows = figures.demand(table)
    found = cells(rows[rows["pool"] == pool], ["policy", "slots"], "hit_rate")
    found = found[(found["slots"] > 2) & (found["slots"] < 8)]
    mean = found.groupby("policy")["middle"].mean().sort_values(ascending=False)
    causal = [str(name) for name in mean.index if name not in ORACLES]
    names = ["belady_bypass", "belady", *causal[:3]]
    names += [name for name in ("lfu", "lru", "random") if name not in names]
    found = found[found["policy"].isin(names)]
    found = found.sort_values("policy", key=lambda n: n.map(mean), ascending=False, kind="stable")
    return grid(found, "policy", "slots", "hit rate, slots", rate)


def policy_zoo_global(table: pd.DataFrame) -> str:
    """The same with one pool for all layers."""
    return policy_zoo(table, "global")
