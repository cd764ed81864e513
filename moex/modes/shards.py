"""Shards of a replay in folders of their own: each is a job, and one more adds them up."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from moex.runs.atomic import write_atomically
from moex.runs.run_id import code_version, run_id

if TYPE_CHECKING:
    from pathlib import Path

    from moex.decisions.decisions import Decisions
    from moex.hardware.profile import HardwareProfile
    from moex.modes.run import Run
    from moex.runs.report import Report
    from moex.trace.format import Trace
    from moex.trace.stream import TraceStream

TOTALS = "totals.json"


def shard_folder(folder: Path, shard: int, shards: int) -> Path:
    """Return the folder of a shard, within that of the run."""
    return folder / "shards" / f"{shard}-of-{shards}"


def replay_shard(
    run: Run,
    folder: Path,
    decisions: Decisions,
    trace: Trace | TraceStream,
    hardware: HardwareProfile,
    cold: bool,
) -> Report:
    """Replay one shard; its counts are written to the folder.

    Raises:
        ValueError: there is no such shard, or shards would depend on each other.
    """
    from moex.sim import replay
    from moex.sim.shards import Totals, borders

    shards = borders(trace, run.shards, cold, hardware.timed)
    if run.shard is None or run.shard >= len(shards):
        raise ValueError(
            f"shard={run.shard}: expected 0 to {len(shards) - 1}, because shards={run.shards}; "
            "try shard=null"
        )
    counted = replay.replay_shard(decisions, trace, hardware, shards[run.shard])
    write_atomically(folder / TOTALS, json.dumps(counted.plain()))
    totals = Totals(trace.geometry)
    totals.add(counted.plain())
    report = replay.totals_row(decisions, trace, hardware, totals)
    report.shards = run.shards
    return report


def add_shards(
    run: Run,
    folder: Path,
    decisions: Decisions,
    trace: Trace | TraceStream,
    hardware: HardwareProfile,
    cold: bool,
) -> Report:
    """Return the row of all shards; those that no job has replayed are replayed here.

    Raises:
        ValueError: shards that would depend on each other, or are of different geometry.
    """
    from moex.sim import replay
    from moex.sim.shards import Totals, borders

    totals = Totals(trace.geometry)
    for shard, visits in enumerate(borders(trace, run.shards, cold, hardware.timed)):
        counted = _counted(shard_folder(folder, shard, run.shards), run)
        if counted is None:
            counted = replay.replay_shard(decisions, trace, hardware, visits).plain()
        totals.add(counted)
    report = replay.totals_row(decisions, trace, hardware, totals)
    report.shards = run.shards
    return report


def _counted(folder: Path, run: Run) -> dict[str, Any] | None:
    """Return the counts of a finished shard of this run; None if there are none."""
    if not (folder / "result.json").is_file():
        return None
    row = json.loads((folder / "result.json").read_text())
    if (row.get("run_id"), row.get("code")) != (run_id(run.settings), code_version()):
        return None
    counted: dict[str, Any] = json.loads((folder / TOTALS).read_text())
    return counted
