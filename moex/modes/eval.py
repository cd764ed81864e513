"""`mode=eval`: accuracy only."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from moex.modes.accuracy import accuracy, check_tasks
from moex.modes.common import load, set_threads
from moex.runs.report import Report

if TYPE_CHECKING:
    from pathlib import Path

    from moex.modes.run import Run


def run(run: Run, folder: Path) -> Report:
    """Measure accuracy only."""
    if not run.eval.tasks:
        raise ValueError("eval.tasks=[]: mode=eval expects tasks; try eval=quick")
    check_tasks(run)
    set_threads(run)
    report = Report(source="live", mode="eval")
    if run.miss.lossy:
        report.lossy.append("miss")
    if run.selects:
        report.lossy.append("sparsity")
    if run.routing is not None:
        report.lossy.append("routing")
    report.residency_dependent = run.residency_dependent
    loaded = load(run, run.memory.store if run.residency_dependent else "ram")
    loaded.describe(report)
    with closing(loaded.store):
        accuracy(report, run, loaded)
    return report
