"""Replay starts without torch."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "pandas", "matplotlib", "wandb", "lm_eval", "hydra")


def test_replay_never_loads_torch():
    code = (
        "import sys, moex, moex.cache.core, moex.trace.format, moex.sim.simulator\n"
        "import moex.prefetch.gate, moex.prefetch.none, moex.report\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
