"""Weights & Biases: a run's folder as a W&B run, offline by default."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moex.track.base import Tracker

MODES = ("offline", "online", "disabled")
QUIET: Any = {"silent": True, "console": "off", "disable_git": True, "x_disable_stats": True}
SENT = "sent"
FILES = ("trace.parquet", "timeline.json")


@dataclass
class WandB(Tracker):
    """Writes `<folder>/wandb`: config, row, series of passes, table of layers, trace, timeline.

    Args:
        mode: "offline" (a folder for `wandb sync`), "online" (synced at once), or "disabled".
        project: W&B's.
        group: None is the experiment or sweep that a run belongs to.
        send_s: give up sending after so many seconds.
        modes: runs of these moex modes are shown; those of a W&B sweep always are.

    Raises:
        ValueError: an unknown mode.
    """

    mode: str = "offline"
    project: str = "moex"
    group: str | None = None
    send_s: float = 120.0
    modes: list[str] = field(default_factory=lambda: ["live", "eval", "train", "verify"])

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"tracker.mode={self.mode}: expected one of {', '.join(MODES)}")

    def publish(self, folder: Path, group: str | None, fresh: bool) -> None:
        """Write a W&B run, unless this one was written before; send it where that was asked for."""
        row = json.loads((folder / "result.json").read_text())
        swept = "WANDB_SWEEP_ID" in os.environ
        if self.mode == "disabled" or not (swept or row["mode"] in self.modes):
            return
        written = sorted(folder.glob("wandb/offline-run-*"))
        if fresh or swept or not written:
            written = [self._write(folder, row, self.group or group)]
        if self.mode == "online" and not (written[-1] / SENT).is_file():
            _send(written[-1], self.send_s)

    def _write(self, folder: Path, row: dict[str, Any], group: str | None) -> Path:
        import wandb
        import yaml

        # With settings of the run alone, W&B would send its server what calls were made.
        wandb.setup(wandb.Settings(mode="offline"))
        run = wandb.init(
            mode="offline",
            dir=folder,
            project=self.project,
            group=group,
            job_type=row["mode"],
            name=_name(row),
            id=os.environ.get("WANDB_RUN_ID", row["run_id"]),  # an agent of a sweep names its runs
            config=yaml.safe_load((folder / "config.yaml").read_text()),
            settings=wandb.Settings(**QUIET),
        )
        try:
            _fill(run, folder, row)
        finally:
            run.finish()
            wandb.teardown()  # only then is all of it in the file
        return Path(run.settings.sync_file).parent


def _name(row: dict[str, Any]) -> str:
    """What tells the run from others: model, policy, prefetcher, slots, seed."""
    slots = "" if row["slots"] is None else f"s{row['slots']}"
    names = (row["model"].rpartition("/")[2], row["policy"], row["prefetcher"], slots)
    return " ".join([*filter(None, names), f"seed{row['seed']}"])


def _fill(run: Any, folder: Path, row: dict[str, Any]) -> None:
    """Everything that the folder holds: series, layers, trace, timeline, and the row."""
    import wandb

    for phase in ("prefill", "decode"):
        run.define_metric(f"{phase}/*", step_metric="token")
    for line in _series(folder / "series.jsonl", row):
        token, phase = line.pop("token"), line.pop("phase")
        run.log({"token": token, **{f"{phase}/{name}": value for name, value in line.items()}})
    if layers := _lines(folder / "layers.jsonl"):
        rows = [list(line.values()) for line in layers]
        run.log({"layers": wandb.Table(list(layers[0]), rows)})
    files = [path for path in (folder / name for name in FILES) if path.is_file()]
    if files:
        artifact = wandb.Artifact(f"run-{row['run_id']}", "run")
        for path in files:
            artifact.add_file(str(path), policy="immutable")  # no second copy of it
        run.log_artifact(artifact)
    run.summary.update(row)
    run.summary.update({f"accuracy/{task['task']}": task["value"] for task in row["tasks"]})


def _send(folder: Path, limit_s: float) -> None:
    """Let W&B's own command send what was written, without a prompt for a login.

    Raises:
        RuntimeError: it could not be sent; it is kept.
    """
    command = [sys.executable, "-m", "wandb", "sync", str(folder)]
    why = f"it took none within {limit_s:g} s"
    with suppress(subprocess.TimeoutExpired):
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit_s
        )
        if done.returncode == 0:
            return (folder / SENT).touch()
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    raise RuntimeError(f"W&B: {why}; it is kept, try `wandb login` and `wandb sync {folder}`")


def _series(path: Path, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Passes of the round that the row reports: the one that decoded for as long."""
    rounds: dict[int, list[dict[str, Any]]] = {}
    for line in _lines(path):
        rounds.setdefault(line.pop("round"), []).append(line)

    def off(lines: list[dict[str, Any]]) -> float:
        return abs(row["decode_s"] - sum(x["seconds"] for x in lines if x["phase"] == "decode"))

    return min(rounds.values(), key=off, default=[])


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
