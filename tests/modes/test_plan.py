"""mode=plan: sums from a configuration alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*overrides, folder):
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *overrides],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_known_model_is_planned_offline(tmp_path):
    done = run(
        *("mode=plan", "model=mixtral_8x7b", "memory.slots=null", "memory.budget=12GiB"),
        *("hardware=rtx3060", "memory.host=29GiB"),
        folder=tmp_path,
    )
    row = json.loads(done.stdout.splitlines()[-1])
    assert (row["source"], row["model"]) == ("plan", "mistralai/Mixtral-8x7B-v0.1")
    assert (row["slots"], row["expert_bits"], row["expert_bytes"]) == (0, 16, 352_321_536)
    assert row["bytes_per_token"] == 64 * 352_321_536
    assert row["disk_bytes"] == 256 * 352_321_536
    assert row["planned_device_bytes"] <= 12 * 2**30
    shown = row["bottleneck"].splitlines()
    assert shown[0].startswith("Fits: yes, mistralai/Mixtral-8x7B-v0.1 within memory.budget=12GiB")
    assert "16 bits: 0 of 8 experts a layer; 4.5 bits: 2 of 8" in shown[0]
    assert shown[1].startswith("device memory: ")
    assert shown[3].startswith("disk: 90.19 GB for packed experts")
    (with_slots,) = [line for line in shown if " with 2 slots about " in line]
    assert "all resident 4.34 tokens/s" in with_slots
    assert "on trace=synthetic_mixtral (32 layers x 8 experts, top-2, 2 slots)" in with_slots
    assert done.stderr.startswith("Fits: yes, ")
    assert "16 bits: 352.3 MB per expert" in row["bottleneck"]
    assert "0 of 8 slots per layer, 84 of 256 experts in host memory" in row["bottleneck"]
    assert row["host_bytes"] == 88 * 352_321_536 <= 30 * 2**30
    assert "67% of the loads are read from the disk, if all are alike" in row["bottleneck"]
    assert "2 of 8 slots per layer" in row["bottleneck"]
    speeds = "on rtx3060, tokens/s by hit rate, without prefetching to all loads hidden: 0%: "
    assert speeds in row["bottleneck"]
    assert "costs scaled from mixtral_8x7b_2bit" in row["bottleneck"]


@pytest.mark.study
def test_a_named_trace_gives_the_hit_rate_of_the_forecast(tmp_path):
    words = ("mode=plan", "model=tiny", "hardware=toy", "trace=tiny", "memory.slots=4")
    row = json.loads(run(*words, folder=tmp_path).stdout.splitlines()[-1])
    assert "the same share of slots on trace=tiny (6 layers x 8" in row["bottleneck"]


def test_what_does_not_fit_is_answered_by_no(tmp_path):
    done = run("mode=plan", "model=olmoe", "memory.budget=1GiB", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("moex: Fits: no; memory.budget=1GiB (1073741824 bytes): expected")
    assert done.stderr.count("\n") == 1


@pytest.mark.study
def test_slots_by_layer_are_allocated_by_a_trace(tmp_path):
    words = ("mode=plan", "memory.allocate=dynamic", "memory.slots=3", "trace=tiny")
    row = json.loads(run(*words, folder=tmp_path).stdout.splitlines()[-1])
    slots = row["layer_slots"]
    assert (len(slots), sum(slots), row["slots"]) == (6, 18, 3)
    assert f"memory.slots=[{','.join(map(str, slots))}]" in row["bottleneck"]
    done = run(*words, "model=mixtral_8x7b", folder=tmp_path)
    (line,) = done.stderr.strip().splitlines()
    assert "the trace is of 6 layers x 8 experts, top-2, the model has 32 layers" in line


@pytest.mark.study
def test_a_budget_that_holds_nothing_is_refused_before_weights_are_looked_for(tmp_path):
    done = run("model=olmoe", "memory.slots=null", "memory.budget=1GiB", folder=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "memory.budget=1GiB (1073741824 bytes): expected at least" in done.stderr
