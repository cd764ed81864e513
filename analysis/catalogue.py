"""Every figure, the rows that it wants, and the command that makes them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis import figures, patterns, speeds, tradeoffs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Entry:
    """A figure: how it is drawn, from which rows of a table, and how one gets them."""

    draw: Callable[[pd.DataFrame], Figure]
    rows: Callable[[pd.DataFrame], pd.DataFrame]
    study: str

    @property
    def command(self) -> str:
        """What to type for its rows."""
        return f"python run.py experiment={self.study}"


FIGURES = {
    "fig1_expert_pattern": Entry(
        patterns.expert_pattern, patterns.pattern_rows, "fig1_expert_pattern"
    ),
    "fig2a_hits_by_layer": Entry(figures.hits_by_layer, figures.plain_lru, "fig2a_lru_hit"),
    "fig2a_hits_by_slots": Entry(figures.hits_by_slots, figures.demand, "policy_zoo"),
    "fig2b_speculative_recall": Entry(
        patterns.speculative_recall, patterns.recall_rows, "fig2b_speculative_recall"
    ),
    "tab2_simulated": Entry(speeds.table_2_bars, speeds.table_2_rows, "tab2_simulated"),
    "tab2_live": Entry(speeds.ablation, speeds.ablation_rows, "tab2_live"),
    "policy_zoo": Entry(figures.ranking, figures.demand, "policy_zoo"),
    "slots_speed": Entry(speeds.slots_speed, speeds.slots_speed_rows, "slots_speed"),
    "buffers": Entry(speeds.buffers, speeds.buffers_rows, "buffers"),
    "oracle_ladder": Entry(speeds.ladder, speeds.ladder_rows, "oracle_ladder"),
    "host_fetch": Entry(tradeoffs.host_fetch, tradeoffs.host_rows, "host_fetch"),
    "corm_sparsity": Entry(tradeoffs.sparsity, tradeoffs.sparsity_rows, "corm_sparsity"),
    "quant_table": Entry(tradeoffs.quant_table, tradeoffs.quant_rows, "quant_table"),
    "pareto": Entry(tradeoffs.pareto, tradeoffs.pareto_rows, "pareto"),
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
