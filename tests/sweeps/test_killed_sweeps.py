"""Multiruns: killed and resumed, and two in one folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.study
def test_a_killed_multirun_resumes_to_the_same_rows():
    script = "experiments/benchmarks/interrupted_sweep/kill.py"
    done = subprocess.run(
        [sys.executable, script, "--cells", "6", "--kills", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=True,
    )
    seen = json.loads(done.stdout)
    assert (seen["killed"], seen["rows"], seen["same"]) == (2, 6, True)
    assert (seen["run_again"], seen["wrong"], seen["left_over"]) == (0, 0, 0)


def start(folder, caches):
    command = [sys.executable, "run.py", "-m", f"hydra.sweep.dir={folder}", "mode=simulate"]
    command += ["bottleneck=false", "prefetch=none", "memory.slots=3", f"cache={caches}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **pipes)


def rows(process):
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return {row["run_id"]: row for row in map(json.loads, out.splitlines())}, err


@pytest.mark.study
def test_two_sweeps_in_one_folder_share_their_cells(tmp_path):
    both = [start(tmp_path, "lru,lfu,fifo"), start(tmp_path, "fifo,lfu,sieve")]
    (first, _), (second, _) = map(rows, both)
    assert (len(first), len(second), len(first.keys() & second.keys())) == (3, 3, 2)
    assert all(first[name] == second[name] for name in first.keys() & second.keys())
    assert {path.parent.name for path in tmp_path.glob("*/result.json")} == {*first, *second}
    again, said = rows(start(tmp_path, "lru,lfu,fifo"))
    assert again == first
    assert "3 of 3 cells were finished before" in said
    assert not list(tmp_path.glob("*/result.previous.json"))
