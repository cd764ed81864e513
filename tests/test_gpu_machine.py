"""The one command for a GPU machine, on a machine that lacks what the command says it can lack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.study

SCRIPT = Path(__file__).parents[1] / "experiments/benchmarks/gpu_machine/run.py"
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
        folders = ["--out", str(tmp_path / "out"), "--scratch", str(tmp_path / "scratch")]
        command = [sys.executable, str(SCRIPT), name, "--tiny", *folders]
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
    assert all(torch.__version__.startswith(row["versions"]["torch"]) for row in rows)
    (row,) = part("figure")
    assert (row["what"], row["skipped"], row["tiny"]) == ("figure", "no matplotlib here", True)


def test_all_ways_run_where_much_is_missing(part):
    _, *rows = part("smoke")
    assert len(rows) == 20
    assert not [row for row in rows if "error" in row]
    assert all(row["same"] for row in rows if "same" in row)


def test_a_part_run_again_takes_the_place_of_its_rows(part, tmp_path):
    for name in ("link", "decode4", "link"):
        part(name)
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert [row["what"] for row in rows] == ["decode4"] * 9 + ["link"] * 8
    assert all(row["link_ceiling_tokens_per_second"] for row in rows[:9] if row["slots"] == 2)


def test_its_rows_stand_beside_those_of_table_2(part, tmp_path):
    rows = part("table2")
    assert len(rows) == 12, "2 and 3 bits, 2 and 4 slots, three rows that are measured"
    assert {row["expert_bits"] for row in rows} == {2, 3}
    assert all(row["random_weights"] and row["replayed_routing"] for row in rows)
    assert {row["row"] for row in rows if row["oracle"]} == {"full"}
    cached, bare = (
        [row["hit_rate"] for row in rows if row["row"].startswith(name) and row["slots"] == 4]
        for name in ("no pre", "no cache")
    )
    assert min(cached) > 0.3
    assert max(bare) == 0
    lines = (tmp_path / "out" / "table2.md").read_text().splitlines()
    assert "here: CPU, 2 layers, tiny: means nothing" in lines[0]
    [line] = [line for line in lines if line.startswith("| 2 bits | 4 | full | 3.061 (")]
    mine = next(row for row in rows if (row["expert_bits"], row["slots"]) == (2, 4))
    assert line.endswith(f"| {mine['tokens_per_second']:.3f} |")
