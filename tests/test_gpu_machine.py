"""The one command for a GPU machine, on a machine that lacks what the command says it can lack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "experiments" / "15_gpu_machine" / "run.py"
ABSENT = """
from importlib.machinery import PathFinder
absent = "hydra omegaconf hqq lm_eval wandb numba datasets pandas matplotlib rich".split()
find = PathFinder.find_spec.__func__
PathFinder.find_spec = classmethod(
    lambda cls, name, *rest: None if name.partition(".")[0] in absent else find(cls, name, *rest)
)
"""


@pytest.fixture
def part(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(ABSENT)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "MOEX_CACHE": str(tmp_path / "cache")}

    def run(name):
        command = [sys.executable, str(SCRIPT), name, "--tiny", "--out", str(tmp_path / "out")]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr[-2000:]
        return [json.loads(line) for line in done.stdout.splitlines()]

    return run


def test_it_decodes_where_much_is_missing_and_draws_nothing(part):
    rows = part("decode")
    kinds = {(row["slots"], row["policy"], row["prefetch"]) for row in rows}
    assert len(kinds) == len(rows) == 6
    assert all(row["tiny"] and row["random_weights"] and row["replayed_routing"] for row in rows)
    assert all(row["tokens_per_second"] > 0 for row in rows)
    assert part("figure") == [{"what": "figure", "skipped": "no matplotlib here", "tiny": True}]
