"""Every study's figure and table, the rows that they want, and the command that makes those."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis import choices, figures, live, losses, patterns, scores, speeds, tables, tradeoffs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Entry:
    """A study's figure, and its table if it has one: from which rows, and how one gets them."""

    study: str
    rows: Callable[[pd.DataFrame], pd.DataFrame]
    draw: Callable[[pd.DataFrame], Figure]
    table: Callable[[pd.DataFrame], str] | None = None

    @property
    def command(self) -> str:
        """What to type for its rows."""
        return f"python run.py experiment={self.study}"


FIGURES = {
    "fig1_expert_pattern": Entry(
        "fig1_expert_pattern", patterns.pattern_rows, patterns.expert_pattern
    ),
    "fig2a_hits_by_layer": Entry(
        "fig2a_lru_hit", figures.bounded_lru, figures.hits_by_layer, tables.fig2a
    ),
    "fig2a_hits_by_slots": Entry("policy_zoo", figures.demand, figures.hits_by_slots),
    "fig2b_speculative_recall": Entry(
        "fig2b_speculative_recall", patterns.recall_rows, patterns.speculative_recall, tables.fig2b
    ),
    "tab2_simulated": Entry(
        "tab2_simulated", speeds.table_2_rows, speeds.table_2_bars, tables.tab2_simulated
    ),
    "tab2_live": Entry("tab2_live", live.ablation_rows, live.ablation, tables.tab2_live),
    "policy_zoo": Entry("policy_zoo", figures.demand, figures.ranking, tables.policy_zoo),
    "slots_speed": Entry(
        "slots_speed", speeds.slots_speed_rows, speeds.slots_speed, tables.slots_speed
    ),
    "slots_speed_live": Entry(
        "slots_speed_live", live.slots_rows, live.slots_speed_live, tables.slots_speed_live
    ),
    "buffers": Entry("buffers", speeds.buffers_rows, speeds.buffers, tables.buffers),
    "oracle_ladder": Entry(
        "oracle_ladder", speeds.ladder_rows, speeds.ladder, tables.oracle_ladder
    ),
    "prefetch_value": Entry(
        "prefetch_value", choices.prefetch_rows, choices.prefetches, tables.prefetch_value
    ),
    "host_fetch": Entry("host_fetch", choices.host_rows, choices.host_fetch, tables.host_fetch),
    "host_fetch_live": Entry(
        "host_fetch_live", choices.live_host_rows, choices.host_fetch, tables.host_fetch
    ),
    "corm_sparsity": Entry(
        "corm_sparsity", tradeoffs.sparsity_rows, tradeoffs.sparsity, scores.corm_sparsity
    ),
    "quant_table": Entry(
        "quant_table", tradeoffs.quant_rows, tradeoffs.quant_table, scores.quant_table
    ),
    "quant_sensitivity": Entry(
        "quant_sensitivity", losses.sensitivity_rows, losses.sensitivity, scores.quant_sensitivity
    ),
    "quant_groups": Entry(
        "quant_groups", losses.group_rows, losses.group_sizes, scores.quant_groups
    ),
    "pareto": Entry("pareto", choices.pareto_rows, choices.pareto, tables.pareto),
}

SIMULATED = (
    "fig1_expert_pattern",
    "fig2a_lru_hit",
    "fig2b_speculative_recall",
    "policy_zoo",
    "tab2_simulated",
    "slots_speed",
    "buffers",
    "oracle_ladder",
    "prefetch_value",
    "host_fetch",
)
"""Studies that need no model: traces are bundled."""


def simulate_all(
    folder: Path, studies: Sequence[str] = SIMULATED, overrides: Sequence[str] = ()
) -> None:
    """Run simulated studies into a results folder; what is finished is not run again.

    Raises:
        ValueError: a study failed; it has said why.
    """
    folder = folder.resolve()
    for study in studies:
        folders = [f"hydra.sweep.dir={folder}", f"hydra.run.dir={folder}/${{run_id:}}"]
        words = [f"experiment={study}", *folders, *overrides]
        done = subprocess.run(
            [sys.executable, "run.py", *words],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:]
            raise ValueError(f"python run.py {' '.join(words)}: {' '.join(last)}")
