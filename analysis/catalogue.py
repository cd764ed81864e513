"""Every figure, the rows that it wants, and the command that makes them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analysis import figures

if TYPE_CHECKING:
    from collections.abc import Callable

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
    "hits_by_slots": Entry(figures.hits_by_slots, figures.demand, "policy_zoo"),
    "ranking": Entry(figures.ranking, figures.demand, "policy_zoo"),
    "hits_by_layer": Entry(figures.hits_by_layer, figures.demand, "policy_zoo"),
}

SIMULATED = ("policy_zoo",)
"""Studies that need no model: traces are bundled."""


def simulate_all(folder: Path, overrides: list[str]) -> None:
    """Run every simulated study into a results folder; what is finished is not run again.

    Raises:
        ValueError: a study failed; it has said why.
    """
    for study in SIMULATED:
        words = [f"experiment={study}", f"hydra.sweep.dir={folder}", *overrides]
        done = subprocess.run(
            [sys.executable, "run.py", *words],
            cwd=ROOT, stdout=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ValueError(f"experiment={study} failed: python run.py {' '.join(words)}")
