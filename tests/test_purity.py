"""Replay starts fast: nothing on its path loads torch, pandas, or more than it needs."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "moex, moex.sim.simulator, moex.sim.bottleneck, moex.sim.bounds, moex.hardware.costs, "
    "moex.trace.synthetic, moex.trace.export, moex.trace.importers.arrays, "
    "moex.trace.importers.vllm, moex.trace.importers.llamacpp, moex.trace.importers.policylang, "
    "moex.trace.importers.selections, moex.prefetch.gate, moex.prefetch.oracle, "
    "moex.prefetch.recorded, moex.prefetch.markov, moex.testing.policies"
)
HEAVY = {"torch", "transformers", "pandas", "matplotlib", "wandb", "lm_eval", "hydra"}


def loaded_by(modules: str) -> set[str]:
    program = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


def test_replay_never_loads_torch():
    assert not HEAVY & loaded_by(MODULES)


def test_the_simulator_alone_does_not_load_the_compiler():
    assert not {"numba", "pyarrow"} & loaded_by("moex.decisions.decisions, moex.sim.bottleneck")


def test_the_composition_root_loads_neither_torch_nor_a_tracker():
    assert not {"torch", "wandb", "pandas", "numba"} & loaded_by("moex.cli.app, moex.track.wandb")
