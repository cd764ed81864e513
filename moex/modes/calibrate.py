"""`mode=calibrate`: measure this machine with this model, offloaded."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from moex.files import write_atomically
from moex.modes.common import load, set_threads
from moex.report import Report

if TYPE_CHECKING:
    from pathlib import Path

    from moex.modes.common import Build


def run(config: Any, folder: Path, build: Build) -> Report:
    """Measure this machine with this model and write a hardware profile."""
    from dataclasses import asdict

    from moex.runner.calibrate import calibrate as measure

    set_threads(config, 1)  # the emulated link of the run that is fitted has a thread of its own
    parts = load(config, build)
    profile = measure(parts, tokens=8 if config.smoke else 64)
    fields = {name: value for name, value in asdict(profile).items() if value is not None}
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]
    text = "\n".join(["_target_: moex.sim.hardware.HardwareProfile", *lines]) + "\n"
    path = folder / "hardware" / "measured.yaml"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, f"# python run.py --config-dir {folder} hardware=measured\n{text}")
    report = Report(source="live", mode="calibrate")
    parts.describe(report)
    report.tpot_s = profile.resident_token_s(parts.geometry.layers, parts.geometry.top_k)
    report.link_bytes_per_s = profile.link_bytes_per_s
    report.verdict = f"profile written; use it with: --config-dir {folder} hardware=measured"
    return report
