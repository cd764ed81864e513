"""`mode=calibrate`: measure this machine with this model, offloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from moex.modes.common import load, set_threads
from moex.paths import cache_folder
from moex.runs.atomic import write_atomically
from moex.runs.report import Report

if TYPE_CHECKING:
    from moex.modes.run import Run


def run(run: Run, folder: Path) -> Report:
    """Measure this machine with this model and write a hardware profile."""
    from dataclasses import asdict

    from moex.calibrate.measure import calibrate as measure

    set_threads(run, 1)  # the emulated link of the run that is fitted has a thread of its own
    # On that store's own link only where it is asked for: profiles are for emulated ones, too.
    store = "disk" if run.memory.store == "disk" else "ram"
    loaded = load(run, store, whole=True)
    cache = Path(run.cache_dir) if run.cache_dir else cache_folder()
    cache.mkdir(parents=True, exist_ok=True)
    profile = measure(loaded, tokens=8 if run.smoke else 64, folder=cache)
    fields = {name: value for name, value in asdict(profile).items() if value is not None}
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]
    text = "\n".join(["_target_: moex.hardware.profile.HardwareProfile", *lines]) + "\n"
    path = folder / "hardware" / "measured.yaml"
    path.parent.mkdir(exist_ok=True)
    write_atomically(path, f"# python run.py --config-dir {folder} hardware=measured\n{text}")
    report = Report(source="live", mode="calibrate")
    loaded.describe(report)
    report.tpot_s = profile.resident_token_s(loaded.geometry.layers, loaded.geometry.top_k)
    report.link_bytes_per_s = profile.link_bytes_per_s
    report.bottleneck = f"profile written; use it with: --config-dir {folder} hardware=measured"
    if profile.break_even:  # on this machine's own link: write it into the config
        found = ", ".join(f"{name} {share:.3g}" for name, share in profile.break_even.items())
        report.bottleneck += f"; memory.break_even by store: {found}"
    return report
