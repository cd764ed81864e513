"""Figures of result rows: each a function from a table to a matplotlib figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import matplotlib.ticker
import pandas as pd

from analysis.cells import cells
from analysis.collect import need
from analysis.style import COLUMN, ORACLES, WIDE, caption, new, policy_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ANCHORS = ("lru", "lfu", "fifo", "random")
ZOO = "python run.py experiment=policy_zoo"


def demand(table: pd.DataFrame) -> pd.DataFrame:
    """Simulated rows without prefetching: what eviction alone does."""
    rows = table[(table["source"] == "sim") & (table["prefetcher"] == "none")]
    return rows[(rows["policy"] != "none") & (rows["miss"] == "fetch")]


def bounded_lru(table: pd.DataFrame) -> pd.DataFrame:
    """Simulated rows of LRU and of its bounds without prefetching, a pool per layer."""
    rows = demand(table)
    return rows[(rows["pool"] == "layer") & rows["policy"].isin(["lru", "belady", "belady_bypass"])]


def hits_by_slots(table: pd.DataFrame, others: int = 3) -> Figure:
    """Hit rate against slots: the classics, the best `others` policies, and Belady's bounds.

    Mean over layers; Eliseev & Mazur's figure 2 (left) summed up, for every policy.
    """
    rows = demand(table)
    need(rows, ["hit_rate", "slots", "pool"], ZOO)
    pools = [pool for pool in ("layer", "global") if (rows["pool"] == pool).any()]
    figure, axes = new(1, len(pools), (WIDE if len(pools) > 1 else COLUMN, 2.8))
    shown = []
    for axis, pool in zip(axes[0], pools, strict=True):
        found = cells(rows[rows["pool"] == pool], ["policy", "slots"], "hit_rate")
        names = _chosen(found, others)
        _lines(axis, found, names)
        shown.append(found[found["policy"].isin(names)].assign(pool=pool))
        axis.set_title("a pool per layer" if pool == "layer" else "one pool for all layers")
        axis.set_xlabel("slots (experts per layer)")
        axis.legend(ncols=2, loc="lower right")
    axes[0][0].set_ylabel("hit rate (resident / demanded)")
    tops = max(axis.get_ylim()[1] for axis in axes[0])
    for axis in axes[0]:
        axis.set_ylim(0, tops)
    classics = [name for name in ANCHORS if name in set(rows["policy"])]
    text = (
        f"Hit rate in decoding, mean over layers: {', '.join(classics)} and at most {others} other "
        "causal policies, those best at the middle capacity; grey: Belady, which knows the future, "
        "with forced admission (dashes) and with bypass (dots)."
    )
    return caption(figure, text + coincident(pd.concat(shown), "policy", ["pool", "slots"]), rows)


def coincident(found: pd.DataFrame, lines: str, at: list[str]) -> str:
    """Say which lines of a figure lie on each other, for its caption; "" if none do.

    Args:
        found: cells, as `analysis.cells` makes them.
        lines: the column whose values are the lines.
        at: the columns that say where a point lies.
    """
    alike: dict[Any, list[str]] = {}
    for name, line in found.groupby(lines, dropna=False):
        points = line.sort_values(at)[[*at, "middle"]]
        alike.setdefault(tuple(points.itertuples(index=False, name=None)), []).append(str(name))
    same = [" and ".join(names) for names in alike.values() if len(names) > 1]
    return f" They coincide: {'; '.join(same)}." if same else ""


def _chosen(found: pd.DataFrame, others: int) -> list[str]:
    sizes = sorted(set(found["slots"]))
    middle = found[found["slots"] == sizes[len(sizes) // 2]].set_index("policy")["middle"]
    causal = middle.drop([name for name in (*ORACLES, *ANCHORS) if name in middle])
    best = list(causal.sort_values(ascending=False, kind="stable").index[:others])
    wanted = [*ANCHORS, *best, *ORACLES]
    return [name for name in wanted if name in set(found["policy"])]


def _lines(axis: Axes, found: pd.DataFrame, names: list[str], x: str = "slots") -> None:
    for name in names:
        line = found[found["policy"] == name].sort_values(x)
        axis.plot(line[x], line["middle"], label=name, **policy_style(name))
        if (line["high"] > line["low"]).any():
            colour = policy_style(name)["color"]
            axis.fill_between(line[x], line["low"], line["high"], color=colour, alpha=0.15, lw=0)
    axis.set_xticks(sorted(set(found[x])))


def ranking(table: pd.DataFrame) -> Figure:
    """All policies side by side: hit rate at every capacity, best on top."""
    rows = demand(table)
    need(rows, ["hit_rate", "slots", "pool"], ZOO)
    found = cells(rows, ["policy", "slots", "pool"], "hit_rate")
    complete = found.groupby("slots")["policy"].nunique()
    sizes = sorted(complete[complete == complete.max()].index)
    found, rows = found[found["slots"].isin(sizes)], rows[rows["slots"].isin(sizes)]
    order = found.groupby("policy")["middle"].mean().sort_values().index
    figure, axes = new(1, len(sizes), (WIDE, 0.9 + 0.15 * len(order)))
    for axis, slots in zip(axes[0], sizes, strict=True):
        here = found[found["slots"] == slots]
        for pool, face in (("layer", None), ("global", "none")):
            cell = here[here["pool"] == pool].set_index("policy")["middle"]
            for position, name in enumerate(order):
                if name in cell:
                    look = policy_style(name) | {"linestyle": "", "zorder": 3}
                    look["marker"] = look["marker"] or "D"
                    axis.plot(cell[name], position, **look, markerfacecolor=face or look["color"])
        axis.set_title(f"{int(slots)} slots")
        axis.set_yticks(range(len(order)), list(order) if axis is axes[0][0] else [""] * len(order))
        axis.set_ylim(-0.6, len(order) - 0.4)
        axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(3))
    axes[0][len(sizes) // 2].set_xlabel("hit rate (resident / demanded)")
    text = (
        "Hit rate of every policy in decoding; filled: a pool per layer, hollow: one pool for all "
        "layers; ordered by their mean; grey diamonds: oracles."
    )
    return caption(figure, text, rows)


def hits_by_layer(table: pd.DataFrame, policy: str = "lru") -> Figure:
    """Hit rate of every layer for several capacities: Eliseev & Mazur's figure 2 (left)."""
    rows = demand(table)
    rows = rows[(rows["policy"] == policy) & (rows["pool"] == "layer")]
    command = f"python run.py experiment=fig2a_lru_hit cache={policy}"
    need(rows, ["layer_hit_rates", "slots"], command)
    figure, axes = new(size=(COLUMN, 2.6))
    axis = axes[0][0]
    sizes = sorted(set(rows["slots"]))
    colours = mpl.colormaps["viridis"].resampled(len(sizes) + 1)
    for number, slots in enumerate(sizes):
        rates = rows[rows["slots"] == slots]["layer_hit_rates"].iloc[0]
        look: dict[str, Any] = {"color": colours(number), "marker": "osv^Dp*hX8"[number % 10]}
        axis.plot(range(len(rates)), rates, label=f"{int(slots)}", **look)
    axis.set_xlabel("MoE layer")
    axis.set_ylabel("hit rate (resident / demanded)")
    axis.set_ylim(0, 1)
    axis.xaxis.set_major_locator(mpl.ticker.MaxNLocator(integer=True))
    figure.legend(title="slots", loc="outside right center")
    text = f"Hit rate of {policy} layer by layer in decoding, for every number of slots a layer."
    return caption(figure, text, rows)
