"""`mode=eval`: accuracy only."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from moex.modes.accuracy import accuracy, check_tasks
from moex.modes.common import load, selects, set_threads
from moex.runs.report import Report

if TYPE_CHECKING:
    from pathlib import Path

    from moex.modes.common import Build


def run(config: Any, folder: Path, build: Build) -> Report:
    """Measure accuracy only."""
    if not config.eval.tasks:
        raise ValueError("eval.tasks=[]: mode=eval expects tasks; try eval=quick")
    check_tasks(config)
    set_threads(config)
    report = Report(source="live", mode="eval")
    if build(config.miss).lossy:
        report.lossy.append("miss")
    if selects(config):
        report.lossy.append("sparsity")
    loaded = load(config, build)
    loaded.describe(report)
    with closing(loaded.store):
        accuracy(report, config, loaded, build)
    return report
