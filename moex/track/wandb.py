"""Weights & Biases: a run's folder as a W&B run, offline unless told otherwise."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from moex.console import note
from moex.track.base import Tracker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MODES = ("offline", "online", "disabled")
FILES = ("trace.parquet", "timeline.json")


@dataclass
class WandB(Tracker):
    """Writes `<folder>/wandb`: config, row, series of passes, table of layers, trace, timeline.

    Args:
        mode: "offline" (a folder for `wandb sync`), "online", or "disabled".
        project: W&B's.
        entity: the team or user; None is the account's own.
        group: None is the experiment or sweep that a run belongs to.
        modes: runs of these moex modes are shown; those of a W&B sweep always are.

    Raises:
        ValueError: an unknown mode.
    """

    mode: str = "offline"
    project: str = "moex"
    entity: str | None = None
    group: str | None = None
    modes: list[str] = field(default_factory=lambda: ["live", "eval", "train", "verify"])

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"tracker.mode={self.mode}: expected one of {', '.join(MODES)}")

    def publish(self, folder: Path, group: str | None, fresh: bool) -> None:
        """Write a W&B run, unless this one was written (online: sent) before."""
        row = json.loads((folder / "result.json").read_text())
        swept = "WANDB_SWEEP_ID" in os.environ
        if self.mode == "disabled" or not (swept or row["mode"] in self.modes):
            return
        earlier = folder.glob("wandb/run-*" if self.mode == "online" else "wandb/*run-*")
        if not (fresh or swept) and any(earlier):
            return
        group = self.group or group
        if self.mode == "online":
            try:
                return self._write(folder, row, group, "online")
            except Exception as error:
                lines = str(error).splitlines() or [type(error).__name__]
                note(f"W&B cannot be reached ({lines[0]}): kept offline, for `wandb sync`")
        self._write(folder, row, group, "offline")

    def _write(self, folder: Path, row: dict[str, Any], group: str | None, mode: str) -> None:
        import wandb
        import yaml

        own_id = os.environ.get("WANDB_RUN_ID")  # an agent of a sweep names its runs
        settings = wandb.Settings(
            silent=True, console="off", x_disable_stats=True, init_timeout=30, disable_git=True
        )
        with _nobody_to_ask():
            run = wandb.init(
                mode=mode,  # type: ignore[arg-type]
                dir=folder,
                project=self.project,
                entity=self.entity,
                group=group,
                job_type=row["mode"],
                id=own_id or row["run_id"],
                resume="allow" if mode == "online" else None,
                config=yaml.safe_load((folder / "config.yaml").read_text()),
                settings=settings,
            )
        with run:
            for phase in ("prefill", "decode"):
                run.define_metric(f"{phase}/*", step_metric="token")
            for line in _series(folder / "series.jsonl", row):
                token, phase = line.pop("token"), line.pop("phase")
                run.log({"token": token, **{f"{phase}/{name}": v for name, v in line.items()}})
            layers = _lines(folder / "layers.jsonl")
            if layers:
                table = wandb.Table(list(layers[0]), [list(line.values()) for line in layers])
                run.log({"layers": table})
            artifact = wandb.Artifact(f"run-{row['run_id']}", "run")
            for path in (folder / name for name in FILES):
                if path.is_file():
                    artifact.add_file(str(path), policy="immutable")  # no second copy of it
            run.log_artifact(artifact)
            run.summary.update(row)
            run.summary.update({f"accuracy/{t['task']}": t["value"] for t in row["tasks"]})


def _series(path: Path, row: dict[str, Any]) -> list[dict[str, Any]]:
    """Passes of the round that the row reports: the one that decoded for as long."""
    rounds: dict[int, list[dict[str, Any]]] = {}
    for line in _lines(path):
        rounds.setdefault(line.pop("round"), []).append(line)

    def off(lines: list[dict[str, Any]]) -> float:
        return abs(row["decode_s"] - sum(x["seconds"] for x in lines if x["phase"] == "decode"))

    return min(rounds.values(), key=off, default=[])


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.open()] if path.is_file() else []


@contextmanager
def _nobody_to_ask() -> Iterator[None]:
    """W&B asks for a login where it finds a terminal; a run must end without anybody there."""
    terminal, sys.stdin = sys.stdin, io.StringIO()
    try:
        yield
    finally:
        sys.stdin = terminal
