"""Says what a lossy run switched on, what it moved, and how the usual method compares."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from moex.runs.report import Report

ALIKE = (
    "source", "mode", "model", "runner", "policy", "quant", "miss", "routing", "link", "store",
    "hardware", "slots", "pool", "workload", "seed", "smoke", "code", "machine",
)  # fmt: skip
"""Fields in which a row is like that of the usual method, besides what sparsity changes."""

LIMITED = 0.3
"""Share of decoding time that is stall, below which fewer bytes cannot bring much speed."""


def explain(report: Report, folder: Path) -> list[str]:
    """Return sentences on a run with a neuron selector; none for any other.

    Args:
        report: the row of the run.
        folder: its results folder; the folders beside it are searched for the usual method's row.
    """
    if "sparsity" not in report.lossy or report.requests is None:
        return []
    by = "prefetch=corm switches on " if report.prefetcher == "corm" else ""
    told = [f"lossy: {by}sparsity={report.sparsity}, which computes only selected neurons"]
    told.append(_moved(report))
    usual = _usual(report, folder)
    if usual is None:
        told.append(
            "compare with whole experts: the same command with prefetch=gate sparsity=none, then "
            "this one again"
        )
    else:
        told.append(_against(report, usual))
    if report.source == "live" and not report.emulated and (report.stall_share or 0) < LIMITED:
        told.append(
            f"computing limits this run (stall {100 * (report.stall_share or 0):.0f} % of the "
            "time), so fewer bytes bring little; on a device whose link limits they do: "
            "python run.py cache=lru prefetch=corm hardware=scale_model"
        )
    return told


def _moved(report: Report) -> str:
    """What crossed the link, and why."""
    moved, needed = (report.bytes_moved or 0) / 1e6, report.bytes_selected
    if report.rows_moved:
        there = "" if report.row_hit_rate is None else f"{100 * report.row_hit_rate:.1f} % of the "
        there += "selected rows were there in time; " if there else ""
        return f"rows were moved: {there}{moved:.1f} MB crossed the link"
    share = "" if report.break_even is None else f" from {100 * report.break_even:.0f} % of"
    rows = f" (selected: {needed / 1e6:.1f} MB)" if needed else ""
    return (
        f"whole experts were moved, {moved:.1f} MB{rows}: with memory.store={report.store} that is "
        f"faster{share} an expert's rows on, as measured here; logits are the same"
    )


def _usual(report: Report, folder: Path) -> dict[str, Any] | None:
    """The newest row of gate lookahead with whole experts on what this run had."""
    mine = vars(report)
    found = []
    for path in folder.parent.glob("*/result.json"):
        try:
            row = json.loads(path.read_text())
        except ValueError:
            continue
        usual = row.get("prefetcher") == "gate" and not row.get("lossy")
        if usual and all(row.get(name) == mine[name] for name in ALIKE):
            found.append((path.stat().st_mtime, row))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _against(report: Report, usual: dict[str, Any]) -> str:
    """The run in numbers of the usual method's: speed, bytes, accuracy with its error."""
    parts = []
    for name, what in (("tokens_per_second", "speed"), ("bytes_moved", "bytes moved")):
        mine, other = getattr(report, name), usual.get(name)
        if mine and other:
            parts.append(f"{what} {mine / other:.2f}x")
    before = {(task["task"], task["metric"]): task for task in usual.get("tasks") or ()}
    for task in report.tasks:
        same = before.get((task["task"], task["metric"]))
        if same is None or "/" in task["task"] or task["stderr"] is None:
            continue
        parts.append(
            f"{task['task']} {task['metric']} {task['value']:.3f} ± {task['stderr']:.3f} instead "
            f"of {same['value']:.3f} ± {same['stderr']:.3f}"
        )
    what = ", ".join(parts) or "no number that both have"
    return (
        f"against prefetch=gate with whole experts (run {usual['run_id']}): {what}; one run each, "
        "for an interval: python -m analysis.compare prefetch=corm prefetch=gate"
    )
