"""Replay starts fast: nothing on its path loads torch or pandas."""

from __future__ import annotations

import subprocess
import sys

MODULES = (
    "moex.sim.simulator, moex.sim.verdict, moex.sim.bounds, moex.sim.costs, moex.sim.hardware, "
    "moex.trace.format, moex.trace.synthetic, moex.trace.export, moex.trace.importers.arrays, "
    "moex.trace.importers.vllm, moex.trace.importers.llamacpp, moex.trace.importers.policylang, "
    "moex.trace.importers.selections, moex.prefetch.oracle, moex.prefetch.recorded, "
    "moex.prefetch.markov"
)


def test_no_torch_no_pandas():
    program = f"import sys, {MODULES}; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "pandas", "transformers", "hydra"} & set(loaded)


def test_the_simulator_alone_does_not_load_the_compiler():
    program = "import sys, moex.sim.simulator; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"numba", "pyarrow"} & set(loaded)
