"""mode=plan: sums from a configuration alone; and ceilings as others have worked them out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from moex.hardware.profile import HardwareProfile
from moex.hardware.roofline import roofline
from moex.types import Geometry

ROOT = Path(__file__).parents[2]
MIXTRAL = Geometry(32, 8, 2, 4096, 14336, 99_090_432)


@pytest.mark.parametrize(
    ("link", "memory", "hit_rate", "serial", "overlapped"),
    [(12e9, 320e9, 0.5, 3.4, 3.8), (25e9, 936e9, 0.9, 29.0, 39.4), (50e9, 1792e9, 0.0, 7.6, 7.9)],
)
def test_ceilings_of_mixtral_at_four_bits(link, memory, hit_rate, serial, overlapped):
    machine = HardwareProfile(link_bytes_per_s=link, memory_bytes_per_s=memory)
    roof = roofline(MIXTRAL, 900_000_000, machine, hit_rate)
    assert roof.serial == pytest.approx(serial, abs=0.06)
    assert roof.overlapped == pytest.approx(overlapped, abs=0.06)


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
        "hardware=rtx3060",
        folder=tmp_path,
    )
    row = json.loads(done.stdout.splitlines()[-1])
    assert (row["source"], row["model"]) == ("plan", "mistralai/Mixtral-8x7B-v0.1")
    assert (row["slots"], row["expert_bits"], row["expert_bytes"]) == (2, 4.5, 99_090_432)
    assert row["bytes_per_token"] == 64 * 99_090_432
    assert row["disk_bytes"] == 256 * 352_321_536
    assert row["planned_device_bytes"] <= 12 * 2**30
    assert (
        "16 bits: memory.budget=12GiB (12884901888 bytes): expected at least" in row["bottleneck"]
    )
    assert "ceiling on rtx3060" in row["bottleneck"]


def test_a_budget_that_holds_nothing_is_refused_before_weights_are_looked_for(tmp_path):
    done = run("model=olmoe", "memory.slots=null", "memory.budget=1GiB", folder=tmp_path)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert "memory.budget=1GiB (1073741824 bytes): expected at least" in done.stderr
